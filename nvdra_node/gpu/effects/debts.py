"""Debts: settings of ended claims that could not be reset because the GPU or nvidia-smi did not answer.

One small file per GPU (``<state>/owed/<uuid>.json``), flushed before the claim's record is removed. A debt is settled
before the GPU's next claim and periodically; it ends with the driver instance that has the settings. Thread safe; the
callers hold the GPU's lock.
"""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
from msgspec.structs import replace

from nvdra_core.errors import FileError, HostError
from nvdra_core.runtime import log
from nvdra_node.checkpoint.store import is_valid_uid
from nvdra_node.host.files import TEMP_SUFFIX
from nvdra_node.host.ports import Files

_LOG = log.get(__name__)
_SUFFIX = ".json"


class Debt(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A GPU whose time slice must be reset, and its compute mode restored."""

    uuid: str = ""
    """Not in files of early releases, which their names identify."""
    boot_id: str
    driver: str
    """``Sysfs.driver_instance`` that has the settings; empty: unknown."""
    compute_mode: int | None = None
    """Compute mode to restore; None: unchanged."""


class DebtStore:
    """The debts of this node's GPUs, read on first use."""

    def __init__(self, directory: Path, files: Files) -> None:
        self._directory = directory
        self._files = files
        self._lock = threading.Lock()
        self._debts: dict[str, Debt] | None = None

    def uuids(self) -> tuple[str, ...]:
        """GPUs with a debt. Raises FileError."""
        with self._lock:
            return tuple(sorted(self._loaded()))

    def get(self, uuid: str) -> Debt | None:
        """The debt of a GPU. Raises FileError."""
        with self._lock:
            return self._loaded().get(uuid)

    def add(self, debt: Debt) -> None:
        """Write a debt durably; an earlier debt's compute mode is kept. Raises FileError, HostError."""
        if not is_valid_uid(debt.uuid):
            raise HostError(f"{debt.uuid!r} is not the UUID of a GPU; its settings cannot be reset")
        with self._lock:
            debts = self._loaded()
            before = debts.get(debt.uuid)
            if debt.compute_mode is None and before is not None and before.driver == debt.driver:
                debt = replace(debt, compute_mode=before.compute_mode)
            self._files.make_directory(self._directory, mode=0o700)
            data = msgspec.json.encode(debt) + b"\n"
            self._files.replace(self._path(debt.uuid), data, durable=True)
            debts[debt.uuid] = debt

    def remove(self, uuid: str) -> None:
        """Remove a settled or obsolete debt. Raises FileError; then it remains."""
        with self._lock:
            self._files.remove(self._path(uuid))
            self._loaded().pop(uuid, None)

    def _path(self, uuid: str) -> Path:
        return self._directory / (uuid + _SUFFIX)

    def _loaded(self) -> dict[str, Debt]:
        if self._debts is None:
            names = self._files.names(self._directory)
            for name in names:
                # An unfinished file: the record of its claim still exists.
                if name.endswith(TEMP_SUFFIX):
                    self._files.remove(self._directory / name)
            uuids = [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]
            self._debts = {uuid: self._read(uuid) for uuid in uuids}
        return self._debts

    def _read(self, uuid: str) -> Debt:
        try:
            debt = msgspec.json.decode(self._files.read(self._path(uuid)) or b"", type=Debt)
        except (msgspec.MsgspecError, FileError) as error:
            # A needless reset does no harm; a time slice that stays long does.
            _LOG.warning("unreadable debt; resetting the GPU's time slice", error, gpu=uuid)
            debt = Debt(boot_id="", driver="")
        return replace(debt, uuid=uuid)
