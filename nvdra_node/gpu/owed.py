"""What GPUs owe: settings of ended claims that could not be reset, because the GPU or nvidia-smi did not answer.

An unprepare that gives up writes a debt here, in one small file per GPU (``<state>/owed/<uuid>.json``, flushed before
the claim's record goes), and succeeds. ``apply`` settles it before the GPU's next claim, and the sweep in the
background. A debt ends with the driver that it was made under, as the settings do. Thread safe; the callers of one GPU
hold its lock.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from nvdra_core.errors import FileError, HostError
from nvdra_core.runtime import log
from nvdra_node.checkpoint.store import is_valid_uid
from nvdra_node.host.files import TEMP_SUFFIX
from nvdra_node.host.ports import Files

_log = log.get(__name__)
_SUFFIX = ".json"


class Debt(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU whose time slice must become the default again, and its compute mode what it was."""

    uuid: str
    boot_id: str
    driver: str
    """``Sysfs.driver_instance`` that has the settings; empty: not known."""
    compute_mode: int | None = None
    """None: it need not be changed."""


class Owed:
    """The debts of this node's GPUs. Read when they are first asked for."""

    def __init__(self, directory: Path, files: Files) -> None:
        self._directory = directory
        self._files = files
        self._lock = threading.Lock()
        self._debts: dict[str, Debt] | None = None

    def uuids(self) -> tuple[str, ...]:
        """The GPUs that owe something. Raises FileError."""
        with self._lock:
            return tuple(sorted(self._loaded()))

    def get(self, uuid: str) -> Debt | None:
        """What the GPU owes. Raises FileError."""
        with self._lock:
            return self._loaded().get(uuid)

    def add(self, debt: Debt) -> None:
        """Write a debt durably. A compute mode that is owed already stays owed. Raises FileError, HostError."""
        if not is_valid_uid(debt.uuid):
            raise HostError(f"{debt.uuid!r} is no UUID of a GPU; its settings cannot be reset")
        with self._lock:
            debts = self._loaded()
            before = debts.get(debt.uuid)
            if debt.compute_mode is None and before is not None and before.driver == debt.driver:
                debt = replace(debt, compute_mode=before.compute_mode)
            self._files.make_directory(self._directory, mode=0o700)
            self._files.replace(self._path(debt.uuid), _encode(debt), durable=True)
            debts[debt.uuid] = debt

    def remove(self, uuid: str) -> None:
        """Forget a debt that is settled or void. Raises FileError; then it still stands."""
        with self._lock:
            self._files.remove(self._path(uuid))
            self._loaded().pop(uuid, None)

    def _path(self, uuid: str) -> Path:
        return self._directory / (uuid + _SUFFIX)

    def _loaded(self) -> dict[str, Debt]:
        if self._debts is None:
            names = self._files.names(self._directory)
            for name in names:
                # An unfinished file: the record of its claim is still there.
                if name.endswith(TEMP_SUFFIX):
                    self._files.remove(self._directory / name)
            uuids = [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]
            self._debts = {uuid: self._read(uuid) for uuid in uuids}
        return self._debts

    def _read(self, uuid: str) -> Debt:
        try:
            return _decode(uuid, json.loads(self._files.read(self._path(uuid)) or b""))
        except (ValueError, TypeError, KeyError, AttributeError, FileError) as error:
            # A time slice that is reset without need does no harm; one that stays long does.
            _log.warning(
                "debt of a GPU not readable; its time slice is reset", gpu=uuid, error=repr(error)
            )
            return Debt(uuid=uuid, boot_id="", driver="")


def _encode(debt: Debt) -> bytes:
    body: dict[str, Any] = {"bootId": debt.boot_id, "driver": debt.driver}
    if debt.compute_mode is not None:
        body["computeMode"] = debt.compute_mode
    return json.dumps(body).encode() + b"\n"


def _decode(uuid: str, body: dict[str, Any]) -> Debt:
    mode = body.get("computeMode")
    if not isinstance(body["bootId"], str) or not isinstance(body["driver"], str):
        raise TypeError(f"{body!r}")
    if mode is not None and type(mode) is not int:
        raise TypeError(f"computeMode is {mode!r}")
    return Debt(uuid=uuid, boot_id=body["bootId"], driver=body["driver"], compute_mode=mode)
