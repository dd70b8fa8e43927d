"""One self-contained CDI file per claim: ``<cdi root>/k8s.gpu.nvidia.com-claim_<uid>.yaml``, as upstream names it.

Used by the transaction, which holds the claim's lock, and by ``sweep``. Files are written atomically (temp + rename,
the temporary name ends in neither ``.json`` nor ``.yaml``) and world-readable. They are not flushed: the directory is a
tmpfs, and after a reboot the transaction writes a claim's file before it replies. Files of other vendors are never
touched, nor files of our name that another program wrote.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from nvdra_core.errors import FileError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.cdi import spec
from nvdra_node.cdi.edits import ClaimSpec
from nvdra_node.host.files import TEMP_SUFFIX
from nvdra_node.host.ports import Files

_SUFFIX = ".yaml"
_OURS = b'{"cdiVersion":'
"""First bytes of files made by ``spec.render``. Upstream's begin with ``---``."""


class DriverFiles(Protocol):
    """Source of the edits that all claims share (``nvidia.CommonEdits``)."""

    def current(self, deadline: Deadline) -> spec.Common:
        """The edits for the loaded NVIDIA driver. Raises HostError or NotReadyError."""


class SpecFiles:
    """The CDI files of one driver's claims. ``kind`` is ``<vendor>/<class>``."""

    def __init__(self, directory: Path, kind: str, files: Files, driver_files: DriverFiles) -> None:
        self._directory = directory
        self._kind = kind
        self._prefix = kind.replace("/", "-") + "_"
        self._files = files
        self._driver_files = driver_files

    def write(self, uid: str, cdi: ClaimSpec, deadline: Deadline) -> None:
        """Write or replace a claim's file. Raises FileError, HostError, NotReadyError."""
        data = self._render(cdi, deadline)
        try:
            self._files.replace(self.path(uid), data, mode=0o644)
        except FileError:
            if self._files.first_missing([str(self._directory)]) is None:
                raise
            # The directory was deleted.
            self._files.make_directory(self._directory)
            self._files.replace(self.path(uid), data, mode=0o644)

    def repair(self, uid: str, cdi: ClaimSpec, deadline: Deadline) -> bool:
        """Write a claim's file unless its content is right; whether it was written."""
        if self._files.read(self.path(uid)) == self._render(cdi, deadline):
            return False
        self.write(uid, cdi, deadline)
        return True

    def remove(self, uid: str) -> bool:
        """Remove a claim's file; False when there was none."""
        return self._files.remove(self.path(uid))

    def open(self) -> None:
        """Create the directory and remove unfinished files of a crash. Call once, before anything is written."""
        self._files.make_directory(self._directory)
        for name in self._files.names(self._directory):
            if name.startswith(f".{self._prefix}") and name.endswith(TEMP_SUFFIX):
                self._files.remove(self._directory / name)

    def missing(self, uids: Iterable[str]) -> tuple[str, ...]:
        """Those of these claims that have no file. Raises FileError when the directory cannot be listed."""
        present = set(self._files.names(self._directory))
        return tuple(uid for uid in uids if self.path(uid).name not in present)

    def path(self, uid: str) -> Path:
        """Path of a claim's file, existing or not."""
        return self._directory / f"{self._prefix}{uid}{_SUFFIX}"

    def uids(self) -> tuple[str, ...]:
        """UIDs of the claims that have a file written by us."""
        return tuple(
            name[len(self._prefix) : -len(_SUFFIX)]
            for name in self._files.names(self._directory)
            if name.startswith(self._prefix) and name.endswith(_SUFFIX) and self._is_ours(name)
        )

    def _is_ours(self, name: str) -> bool:
        return (self._files.read(self._directory / name) or b"").startswith(_OURS)

    def _render(self, cdi: ClaimSpec, deadline: Deadline) -> bytes:
        common = spec.WITHOUT_DRIVER
        if cdi.with_driver_files:
            common = self._driver_files.current(deadline)
        return spec.render(self._kind, cdi, common)
