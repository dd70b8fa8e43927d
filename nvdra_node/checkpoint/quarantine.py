"""Files that are no usable records, kept for people and for releases that can read them. Used by ``store``.

``<state>/quarantine/<claim uid>.json[.<n>]``, each with its reason beside it in ``<name>.reason``.
"""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec

from nvdra_core.errors import FileError, RecordError
from nvdra_core.runtime import log
from nvdra_node.host.files import TEMP_SUFFIX
from nvdra_node.host.ports import Files

_LOG = log.get(__name__)
_REASON = ".reason"


class Quarantined(msgspec.Struct, frozen=True):
    """A file that is no usable record."""

    path: Path
    reason: str


def home_name(name: str) -> str:
    """The name that a file had before it was moved to quarantine: ``u1.json.2`` -> ``u1.json``."""
    uid, dot, _ = name.partition(".json")
    return uid + dot


class Quarantine:
    """One directory. ``load`` and ``add`` are called at start only; the rest is thread safe."""

    def __init__(self, directory: Path, files: Files) -> None:
        self._directory = directory
        self._files = files
        self._lock = threading.Lock()
        self.content: tuple[Quarantined, ...] = ()

    def load(self) -> None:
        """List the directory."""
        try:
            names = self._files.names(self._directory)
        except FileError as error:
            _LOG.error("cannot list the quarantine", error)
            return
        self.content = tuple(
            Quarantined(self._directory / name, self._read_reason(name))
            for name in names
            if not name.endswith((_REASON, TEMP_SUFFIX))
        )

    def has(self, name: str) -> bool:
        """Whether a file of this original name is here: its pod may run for months."""
        return any(home_name(bad.path.name) == name for bad in self.content)

    def add(self, path: Path, reason: str) -> None:
        """Move a file here. Raises FileError; then it is where it was."""
        self._files.make_directory(self._directory, mode=0o700)
        taken = set(self._files.names(self._directory))
        name, count = path.name, 1
        while name in taken:
            count += 1
            name = f"{path.name}.{count}"
        target = self._directory / name
        self._files.move(path, target)
        self.content = (*self.content, Quarantined(target, reason))
        _LOG.error("record moved to quarantine", RecordError(reason), path=target)
        try:
            self._files.replace(target.with_name(name + _REASON), f"{reason}\n".encode())
        except FileError as error:
            _LOG.warning("reason of a quarantined record not written", error, path=target)

    def move_back(self, path: Path, home: Path) -> None:
        """Move a file to where records are. Raises FileError."""
        self._files.move(path, home)
        self._drop(path)

    def remove(self, path: Path) -> None:
        """Remove a file with its reason. Raises FileError."""
        self._files.remove(path)
        self._drop(path)

    def _drop(self, path: Path) -> None:
        self._files.remove(path.with_name(path.name + _REASON))
        with self._lock:
            self.content = tuple(bad for bad in self.content if bad.path != path)

    def _read_reason(self, name: str) -> str:
        try:
            reason = self._files.read(self._directory / (name + _REASON)) or b""
        except FileError as error:
            return str(error)
        return reason.decode(errors="replace").strip()
