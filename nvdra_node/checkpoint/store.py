"""The records of this node's claims: read once at start, then memory is the truth and files follow it.

One file per claim, ``<state>/claims/<uid>.json``. Used by the transaction (which holds the claim's lock, so two writes
of one claim never meet), by ``sweep`` and by status output.

What is flushed and why:

- The *file* is flushed before its name appears: after a power failure a name never stands on garbage.
- The *directory* is not. A name that is lost (a new record) or that returns (a removed one) can only do so through a
  power failure; then the boot id is another one, all that effects changed is gone with the kernel, no record is served
  or counted as holding a device before it was verified, and the sweep asks the API about each. So a plain prepare
  costs one flush and an unprepare none.
- Concurrent commits share the disk's flush without a leader of ours: each caller flushes its own small file, and the
  file system's journal commits them together. ``syncfs`` would save some more but waits for everybody's dirty pages,
  such as an image being pulled to the same disk.

Lookups by device and by hold go through indexes: their cost does not grow with the claims held.

A file that is no usable record is put into quarantine. One that a newer release wrote (before a downgrade) still tells
which devices its claim has: ``newer`` and ``sharing`` know them, until the claim is unprepared, prepared again, or a
release starts that can read it, which takes it back.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from nvdra_core.errors import FileError, RecordError
from nvdra_core.runtime import log
from nvdra_node.checkpoint import codec
from nvdra_node.checkpoint.codec import Newer
from nvdra_node.checkpoint.model import Record
from nvdra_node.host.files import TEMP_SUFFIX
from nvdra_node.host.ports import Files

_log = log.get(__name__)

_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_SUFFIX = ".json"
_REASON = ".reason"


class Quarantined(msgspec.Struct, frozen=True):
    """A file that was no usable record."""

    path: Path
    """Where it is now; its reason stands beside it in ``<name>.reason``."""
    reason: str


def is_valid_uid(uid: str) -> bool:
    """Whether a claim UID may become part of a file name (letters, digits, dashes; no path)."""
    return _UID.fullmatch(uid) is not None


def _believe(record: Record) -> None:
    """The check of a store that has none."""


class RecordStore:
    """All records of one driver on this node. Thread safe."""

    def __init__(
        self, state_dir: Path, files: Files, check: Callable[[Record], None] = _believe
    ) -> None:
        """``check`` raises RecordError for a record that is whole and makes no sense."""
        self._claims_dir = state_dir / "claims"
        self._quarantine_dir = state_dir / "quarantine"
        self._files = files
        self._check = check
        self._lock = threading.Lock()
        self._records: dict[str, Record] = {}
        self._index: dict[str, set[str]] = {}
        self._unreadable: dict[str, str] = {}
        self._put_aside: frozenset[str] = frozenset()
        self._newer: dict[str, tuple[Path, Newer]] = {}
        self.quarantined: tuple[Quarantined, ...] = ()
        """What lies in quarantine, of this start and of earlier ones, for status, doctor and metrics."""
        self.writes = 0
        """Records written since start, for metrics."""

    def load(self) -> None:
        """Read all records. Bad files are moved to ``quarantine`` and named; they never stop the others.

        Raises FileError when the state directory itself cannot be made or listed.
        """
        self._files.make_directory(self._claims_dir, mode=0o700)
        self._take_back()
        stuck: list[Quarantined] = []
        for name in self._files.names(self._claims_dir):
            path = self._claims_dir / name
            if name.endswith(TEMP_SUFFIX):
                self._files.remove(path)
                continue
            try:
                self._remember(self._read(path))
            except (RecordError, FileError) as error:
                stuck += self._quarantine(path, str(error))
        lying = self._names_put_aside()
        self._put_aside = frozenset(name.partition(_SUFFIX)[0] for name in lying)
        self.quarantined = (*stuck, *(self._quarantined(name) for name in lying))
        for name in lying:
            self._guard(self._quarantine_dir / name)

    def is_put_aside(self, uid: str) -> bool:
        """Whether a record of this claim is in quarantine: the claim may be in use although it has no record."""
        return uid in self._put_aside or uid in self._unreadable

    def newer(self, uid: str) -> Newer | None:
        """What is readable of the record that a newer release wrote for this claim; None when there is none."""
        with self._lock:
            found = self._newer.get(uid)
        return found[1] if found is not None else None

    def all_newer(self) -> tuple[Record, ...]:
        """What is readable of the records of newer releases, if it names the claim; in no order."""
        with self._lock:
            found = [newer.record for _, newer in self._newer.values()]
        return tuple(each for each in found if codec.UNKNOWN not in (each.namespace, each.name))

    def get(self, uid: str) -> Record | None:
        """The record of a claim."""
        with self._lock:
            return self._records.get(uid)

    def all(self) -> tuple[Record, ...]:
        """All records, in no order."""
        with self._lock:
            return tuple(self._records.values())

    def sharing(self, uid: str, devices: Iterable[str], holds: Iterable[str]) -> tuple[Record, ...]:
        """The records of other claims that have one of these device names or holds, sorted by UID; of those of newer
        releases what is readable."""
        keys = [_device_key(device) for device in devices]
        keys += holds
        with self._lock:
            uids: set[str] = set()
            for key in keys:
                uids |= self._index.get(key, set())
            uids.discard(uid)
            return tuple(self._known(other) for other in sorted(uids))

    def put(self, record: Record) -> None:
        """Write a record durably, then remember it. Raises FileError; then the previous record still stands."""
        path = self._path(record.uid)
        if (reason := self._unreadable.get(record.uid)) is not None:
            raise FileError(
                f"{path} holds an unusable record ({reason}) and could not be moved away: move it by hand",
                path=str(path),
            )
        self._files.replace(path, codec.encode(record), durable=True)
        self.writes += 1
        self._remember(record)
        try:
            self._forget_newer(record.uid)
        except FileError as error:  # this release's record counts from now on
            _log.warning("a record stays in quarantine", error, uid=record.uid)

    def remove(self, uid: str) -> None:
        """Forget a record, also one of a newer release; fine when there is none. Raises FileError; then it still
        stands."""
        self._forget_newer(uid)
        self._files.remove(self._path(uid))
        with self._lock:
            if (old := self._records.pop(uid, None)) is not None:
                self._unindex(old)

    def _path(self, uid: str) -> Path:
        if not is_valid_uid(uid):
            raise RecordError(
                f"claim uid {uid!r} cannot name a record: want letters, digits, dashes"
            )
        return self._claims_dir / (uid + _SUFFIX)

    def _read(self, path: Path, name: str = "") -> Record:
        """``name``: the file's, if it is to be another than it is."""
        name = name or path.name
        uid = name.removesuffix(_SUFFIX)
        if uid == name or not is_valid_uid(uid):
            raise RecordError("its name is not <claim uid>.json")
        record = codec.decode(self._files.read(path) or b"")
        if record.uid != uid:
            raise RecordError(f"it says it is of claim uid {record.uid}")
        self._check(record)
        return record

    def _take_back(self) -> None:
        """Move files out of quarantine that this release can read; remove them where their claim was prepared again."""
        prepared = set(self._files.names(self._claims_dir))
        for name in self._names_put_aside():
            path, home = self._quarantine_dir / name, name.partition(_SUFFIX)[0] + _SUFFIX
            try:
                if home in prepared:
                    self._remove_superseded(path, home)
                    continue
                self._read(path, home)
                self._files.move(path, self._claims_dir / home)
                self._files.remove(path.with_name(name + _REASON))
            except (RecordError, FileError) as error:
                _log.info("a record stays in quarantine", v=2, path=path, error=str(error))
                continue
            prepared.add(home)
            _log.info("record taken back from quarantine", path=path)

    def _remove_superseded(self, path: Path, home: str) -> None:
        """Or it would be taken back when the claim is long gone. Raises RecordError for a damaged one, which stays."""
        if not codec.is_newer(self._files.read(path) or b""):
            self._read(path, home)
        self._read(self._claims_dir / home)
        self._files.remove(path)
        self._files.remove(path.with_name(path.name + _REASON))
        _log.info("record in quarantine removed: its claim was prepared again", path=path)

    def _guard(self, path: Path) -> None:
        """Keep the devices of a newer release's record, if its claim has no record of ours."""
        uid = path.name.partition(_SUFFIX)[0]
        try:
            data = self._files.read(path) or b""
            if uid in self._records or uid in self._newer or not codec.is_newer(data):
                return
            newer = codec.decode_newer(data)
        except (RecordError, FileError) as error:
            _log.warning("devices of a record in quarantine are not known", error, path=path)
            return
        if newer.record.uid != uid:
            return
        with self._lock:
            self._newer[uid] = path, newer
            self._add_to_index(newer.record)

    def _forget_newer(self, uid: str) -> None:
        with self._lock:
            found = self._newer.get(uid)
        if found is None:
            return
        path, newer = found
        self._files.remove(path)
        self._files.remove(path.with_name(path.name + _REASON))
        with self._lock:
            del self._newer[uid]
            if uid not in self._records:
                self._unindex(newer.record)
        self.quarantined = tuple(each for each in self.quarantined if each.path != path)
        self._put_aside = frozenset(name.partition(_SUFFIX)[0] for name in self._names_put_aside())

    def _known(self, uid: str) -> Record:
        """The caller holds the lock."""
        return self._records[uid] if uid in self._records else self._newer[uid][1].record

    def _quarantine(self, path: Path, reason: str) -> list[Quarantined]:
        """Move a file away; the file where it is, if that fails."""
        target = self._quarantine_dir / path.name
        taken = set(self._files.names(self._quarantine_dir))
        count = 1
        while target.name in taken:
            count += 1
            target = self._quarantine_dir / f"{path.name}.{count}"
        try:
            self._files.make_directory(self._quarantine_dir, mode=0o700)
            self._files.move(path, target)
        except FileError as error:
            _log.error("an unusable record cannot be moved away", error, path=path, why=reason)
            self._unreadable[path.name.removesuffix(_SUFFIX)] = reason
            return [Quarantined(path, reason)]
        _log.error("record put into quarantine", RecordError(reason), path=target)
        try:
            self._files.replace(target.with_name(target.name + _REASON), f"{reason}\n".encode())
        except FileError as error:
            _log.warning("the reason of a quarantine stands in the log only", error)
        return []

    def _quarantined(self, name: str) -> Quarantined:
        path = self._quarantine_dir / name
        try:
            reason = self._files.read(path.with_name(name + _REASON)) or b""
        except FileError as error:
            reason = str(error).encode()
        return Quarantined(path, reason.decode(errors="replace").strip())

    def _names_put_aside(self) -> tuple[str, ...]:
        """Of this start and of earlier ones: their pods may run for months."""
        try:
            names = self._files.names(self._quarantine_dir)
        except FileError as error:
            _log.error("the quarantine cannot be listed", error)
            return ()
        return tuple(name for name in names if not name.endswith((_REASON, TEMP_SUFFIX)))

    def _remember(self, record: Record) -> None:
        with self._lock:
            if (old := self._records.get(record.uid)) is not None:
                self._unindex(old)
            elif record.uid in self._newer:
                self._unindex(self._newer[record.uid][1].record)
            self._records[record.uid] = record
            self._add_to_index(record)

    def _add_to_index(self, record: Record) -> None:
        for key in _keys(record):
            self._index.setdefault(key, set()).add(record.uid)

    def _unindex(self, record: Record) -> None:
        for key in _keys(record):
            uids = self._index[key]
            uids.discard(record.uid)
            if not uids:
                del self._index[key]


def _device_key(device: str) -> str:
    return f"device:{device}"


def _keys(record: Record) -> set[str]:
    """Index keys: what the claim was given and, while it is only started, what it asked for."""
    keys = {_device_key(device.device) for device in record.devices}
    keys |= {_device_key(str(r.get("device"))) for r in record.claim.get("results", ())}
    keys |= set(record.holds)
    return keys
