"""The records of this node's claims: read once at start; then memory is authoritative and the files follow it.

One file per claim, ``<state>/claims/<uid>.json``. Thread safe; the transaction holds the claim's lock, so two writes of
one claim never overlap. Files are flushed, the directory is not (docs/decisions/0003). A file that is no usable record
is moved to quarantine. One of a newer release (before a downgrade) still protects its devices, until its claim is
unprepared or prepared again, or a release that can read it restores it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

from nvdra_core.errors import FileError, RecordError
from nvdra_core.runtime import log
from nvdra_node.checkpoint import codec
from nvdra_node.checkpoint.codec import NewerRecord
from nvdra_node.checkpoint.model import Record
from nvdra_node.checkpoint.quarantine import Quarantine, Quarantined, home_name
from nvdra_node.host.files import TEMP_SUFFIX
from nvdra_node.host.ports import Files

_LOG = log.get(__name__)

_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_SUFFIX = ".json"


class _Newer(msgspec.Struct, frozen=True):
    """A record of a newer release, in quarantine."""

    path: Path
    content: NewerRecord


def is_valid_uid(uid: str) -> bool:
    """Whether a claim UID may become part of a file name (letters, digits, dashes; no path)."""
    return _UID.fullmatch(uid) is not None


class RecordStore:
    """All records of one driver on this node."""

    def __init__(self, state_dir: Path, files: Files) -> None:
        self._claims_dir = state_dir / "claims"
        self._files = files
        self._quarantine = Quarantine(state_dir / "quarantine", files)
        self._lock = threading.Lock()
        self._records: dict[str, Record] = {}
        self._newer: dict[str, _Newer] = {}
        self._index: dict[str, set[str]] = {}
        """Claim UIDs by device and hold."""
        self._stuck: dict[str, Quarantined] = {}
        """Unusable files that could not be moved to quarantine, by claim UID."""
        self.writes = 0
        """Records written since start, for metrics."""

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """Unusable files, of this start and of earlier ones, for status, doctor and metrics."""
        return (*self._stuck.values(), *self._quarantine.content)

    def load(self) -> None:
        """Read all records. Unusable files are moved to quarantine and do not affect the others.

        Raises FileError when the state directory cannot be created or listed.
        """
        self._files.make_directory(self._claims_dir, mode=0o700)
        self._quarantine.load()
        self._restore()
        for name in self._files.names(self._claims_dir):
            path = self._claims_dir / name
            if name.endswith(TEMP_SUFFIX):
                self._files.remove(path)
                continue
            try:
                self._remember(self._read(path))
            except (RecordError, FileError) as error:
                self._set_aside(path, f"{path}: {error}")
        for bad in self._quarantine.content:
            self._protect(bad.path)

    def is_quarantined(self, uid: str) -> bool:
        """Whether this claim has an unusable record: it may be in use although it has no record."""
        return uid in self._stuck or self._quarantine.has(uid + _SUFFIX)

    def newer(self, uid: str) -> NewerRecord | None:
        """What is readable of the record that a newer release wrote for this claim; None when there is none."""
        with self._lock:
            found = self._newer.get(uid)
        return found.content if found is not None else None

    def all_newer(self) -> tuple[Record, ...]:
        """What is readable of the records of newer releases, if it names the claim; unordered."""
        with self._lock:
            found = [newer.content.record for newer in self._newer.values()]
        return tuple(each for each in found if codec.UNKNOWN not in (each.namespace, each.name))

    def get(self, uid: str) -> Record | None:
        """The record of a claim."""
        with self._lock:
            return self._records.get(uid)

    def all(self) -> tuple[Record, ...]:
        """All records, unordered."""
        with self._lock:
            return tuple(self._records.values())

    def sharing(self, uid: str, devices: Iterable[str], holds: Iterable[str]) -> tuple[Record, ...]:
        """Records of other claims that have one of these device names or holds, sorted by UID; of those of newer
        releases what is readable."""
        with self._lock:
            uids: set[str] = set()
            for key in (*map(_device_key, devices), *holds):
                uids |= self._index.get(key, set())
            uids.discard(uid)
            return tuple(self._any(other) for other in sorted(uids))

    def put(self, record: Record) -> None:
        """Write a record durably, then remember it. Raises FileError; then the previous record is still valid."""
        path = self._path(record.uid)
        if (stuck := self._stuck.get(record.uid)) is not None:
            raise FileError(
                f"{path} is an unusable record ({stuck.reason}) and could not be moved away: move it by hand",
                path=str(path),
            )
        self._files.replace(path, codec.encode(record), durable=True)
        self.writes += 1
        self._remember(record)
        try:
            self._remove_newer(record.uid)
        except FileError as error:  # this release's record counts from now on
            _LOG.warning("record not removed from quarantine", error, uid=record.uid)

    def remove(self, uid: str) -> None:
        """Remove a record, also one of a newer release; success when there is none. Raises FileError; then it is still
        valid."""
        self._remove_newer(uid)
        self._files.remove(self._path(uid))
        with self._lock:
            if (old := self._records.pop(uid, None)) is not None:
                self._remove_from_index(old)

    def _path(self, uid: str) -> Path:
        if not is_valid_uid(uid):
            raise RecordError(
                f"claim uid {uid!r} cannot name a record: want letters, digits, dashes"
            )
        return self._claims_dir / (uid + _SUFFIX)

    def _read(self, path: Path, name: str = "") -> Record:
        """``name``: the name that the file should have, if not its own."""
        name = name or path.name
        uid = name.removesuffix(_SUFFIX)
        if uid == name or not is_valid_uid(uid):
            raise RecordError("its name is not <claim uid>.json")
        record = codec.decode(self._files.read(path) or b"")
        if record.uid != uid:
            raise RecordError(f"uid: it is of claim uid {record.uid}")
        return record

    def _restore(self) -> None:
        """Move files out of quarantine that this release can read; remove those whose claim was prepared again."""
        prepared = set(self._files.names(self._claims_dir))
        for path in [bad.path for bad in self._quarantine.content]:
            home = home_name(path.name)
            try:
                if home in prepared:
                    self._remove_superseded(path, home)
                    continue
                self._read(path, home)
                self._quarantine.move_back(path, self._claims_dir / home)
            except (RecordError, FileError) as error:
                _LOG.info("record stays in quarantine", v=2, path=path, error=str(error))
                continue
            prepared.add(home)
            _LOG.info("record restored from quarantine", path=path)

    def _remove_superseded(self, path: Path, home: str) -> None:
        """Otherwise it would be restored when its claim is long deleted. Raises RecordError for a damaged one, which
        stays."""
        if not codec.is_newer(self._files.read(path) or b""):
            self._read(path, home)
        self._read(self._claims_dir / home)
        self._quarantine.remove(path)
        _LOG.info("record removed from quarantine: its claim was prepared again", path=path)

    def _set_aside(self, path: Path, reason: str) -> None:
        try:
            self._quarantine.add(path, reason)
        except FileError as error:
            _LOG.error(
                "unusable record cannot be moved to quarantine", error, path=path, why=reason
            )
            self._stuck[path.name.removesuffix(_SUFFIX)] = Quarantined(path, reason)

    def _protect(self, path: Path) -> None:
        """Index the devices of a newer release's record, if its claim has no record of ours."""
        uid = home_name(path.name).removesuffix(_SUFFIX)
        try:
            data = self._files.read(path) or b""
            if uid in self._records or uid in self._newer or not codec.is_newer(data):
                return
            newer = codec.decode_newer(data)
        except (RecordError, FileError) as error:
            _LOG.warning("cannot read the devices of a record in quarantine", error, path=path)
            return
        if newer.record.uid != uid:
            return
        with self._lock:
            self._newer[uid] = _Newer(path, newer)
            self._add_to_index(newer.record)

    def _remove_newer(self, uid: str) -> None:
        with self._lock:
            found = self._newer.get(uid)
        if found is None:
            return
        self._quarantine.remove(found.path)
        with self._lock:
            del self._newer[uid]
            if uid not in self._records:
                self._remove_from_index(found.content.record)

    def _any(self, uid: str) -> Record:
        """The caller holds the lock."""
        return self._records[uid] if uid in self._records else self._newer[uid].content.record

    def _remember(self, record: Record) -> None:
        with self._lock:
            if (old := self._records.get(record.uid)) is not None:
                self._remove_from_index(old)
            elif record.uid in self._newer:
                self._remove_from_index(self._newer[record.uid].content.record)
            self._records[record.uid] = record
            self._add_to_index(record)

    def _add_to_index(self, record: Record) -> None:
        for key in _keys(record):
            self._index.setdefault(key, set()).add(record.uid)

    def _remove_from_index(self, record: Record) -> None:
        for key in _keys(record):
            uids = self._index[key]
            uids.discard(record.uid)
            if not uids:
                del self._index[key]


def _device_key(device: str) -> str:
    return f"device:{device}"


def _keys(record: Record) -> set[str]:
    return {*map(_device_key, record.device_names), *record.holds}
