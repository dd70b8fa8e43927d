"""The files of claims: a self-contained CDI file, ``<cdi root>/k8s.gpu.nvidia.com-claim_<uid>.yaml`` as upstream names
it, and what that mounts into containers beside devices (``<files>/<uid>_<name>``).

Used by the transaction, which holds the claim's lock, and by ``sweep``. Files are written atomically (temp + rename,
the temporary name ends in neither ``.json`` nor ``.yaml``) and world-readable. They are not flushed: the directory is a
tmpfs, and after a reboot the transaction writes a claim's file before it replies. Files of other vendors are never
touched, nor files of our name that another program wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """The files of one driver's claims. ``kind`` is ``<vendor>/<class>``."""

    def __init__(
        self,
        directory: Path,
        kind: str,
        files: Files,
        driver_files: DriverFiles,
        claim_files: Path,
    ) -> None:
        """``directory``: the CDI files. ``claim_files``: all others, in a directory of this driver alone."""
        self._directory = directory
        self._claim_files = claim_files
        self._kind = kind
        self._prefix = kind.replace("/", "-") + "_"
        self._files = files
        self._driver_files = driver_files

    def write(self, uid: str, cdi: ClaimSpec, deadline: Deadline) -> None:
        """Write or replace a claim's files. Raises FileError, HostError, NotReadyError."""
        data = self._render(cdi, deadline)
        if cdi.files:
            self._files.make_directory(self._claim_files)
        for file in cdi.files:
            self._files.replace(self.file_path(uid, file.name), file.content.encode(), mode=0o644)
        try:
            self._files.replace(self.path(uid), data, mode=0o644)
        except FileError:
            if self._files.first_missing([str(self._directory)]) is None:
                raise
            # The directory was deleted.
            self._files.make_directory(self._directory)
            self._files.replace(self.path(uid), data, mode=0o644)

    def repair(self, uid: str, cdi: ClaimSpec, deadline: Deadline) -> bool:
        """Write a claim's files unless their content is right; whether they were written."""
        wanted = {self.path(uid): self._render(cdi, deadline)}
        wanted |= {self.file_path(uid, file.name): file.content.encode() for file in cdi.files}
        if all(self._files.read(path) == data for path, data in wanted.items()):
            return False
        self.write(uid, cdi, deadline)
        return True

    def remove(self, uid: str) -> bool:
        """Remove a claim's files, also those that no record names; False when there was none."""
        paths = [self.path(uid)]
        names = self._files.names(self._claim_files)
        paths += [self._claim_files / name for name in names if name.startswith(f"{uid}_")]
        return any([self._files.remove(path) for path in paths])

    def open(self) -> None:
        """Create the directory and remove unfinished files of a crash. Call once, before anything is written."""
        self._files.make_directory(self._directory)
        for directory, prefix in ((self._directory, f".{self._prefix}"), (self._claim_files, ".")):
            for name in self._files.names(directory):
                if name.startswith(prefix) and name.endswith(TEMP_SUFFIX):
                    self._files.remove(directory / name)

    def missing(self, specs: Mapping[str, ClaimSpec | None]) -> tuple[str, ...]:
        """Those of these claims, by UID, that lack a file. Raises FileError when a directory cannot be listed."""
        directories = (self._directory, self._claim_files)
        present = {place / name for place in directories for name in self._files.names(place)}
        return tuple(uid for uid, spec in specs.items() if not self._paths(uid, spec) <= present)

    def path(self, uid: str) -> Path:
        """Path of a claim's CDI file, existing or not."""
        return self._directory / f"{self._prefix}{uid}{_SUFFIX}"

    def file_path(self, uid: str, name: str) -> Path:
        """Path of another file of a claim."""
        return self._claim_files / f"{uid}_{name}"

    def uids(self) -> tuple[str, ...]:
        """UIDs of the claims that have a file written by us."""
        found = {name.partition("_")[0] for name in self._files.names(self._claim_files)}
        found |= {
            name[len(self._prefix) : -len(_SUFFIX)]
            for name in self._files.names(self._directory)
            if name.startswith(self._prefix) and name.endswith(_SUFFIX) and self._is_ours(name)
        }
        return tuple(sorted(found))

    def _paths(self, uid: str, spec: ClaimSpec | None) -> set[Path]:
        others = spec.files if spec is not None else ()
        return {self.path(uid), *(self.file_path(uid, file.name) for file in others)}

    def _is_ours(self, name: str) -> bool:
        return (self._files.read(self._directory / name) or b"").startswith(_OURS)

    def _render(self, cdi: ClaimSpec, deadline: Deadline) -> bytes:
        common = spec.WITHOUT_DRIVER
        if cdi.with_driver_files:
            common = self._driver_files.current(deadline)
        return spec.render(self._kind, cdi, common)
