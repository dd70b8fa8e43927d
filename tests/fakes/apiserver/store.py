"""The fake's objects, their versions and the log of changes that watches read. Knows no HTTP, no validation.

One lock, one counter of resource versions for all kinds, as in etcd. Stored objects are never changed in place, so
reading one needs no lock. ``changed`` wakes the watches.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.apiserver.kinds import Kind
from tests.fakes.apiserver.status import StatusError

Key = tuple[str, str]
Convert = Callable[[dict[str, Any], Kind, str], dict[str, Any]]
HISTORY_LIMIT = 20_000


@dataclass(slots=True)
class Entry:
    """One stored state of an object. ``owners`` is what each field manager applied last (see ``apply``)."""

    obj: dict[str, Any]
    version: int
    owners: dict[str, dict[str, Any]] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        metadata = self.obj["metadata"]
        return (metadata.get("namespace", ""), metadata["name"])


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the log; ``before`` is None for a creation, ``after`` for a deletion holds the last state."""

    version: int
    type: str
    after: Entry
    before: Entry | None


@dataclass(slots=True)
class Table:
    """All objects of one kind."""

    entries: dict[Key, Entry] = field(default_factory=dict)
    changes: deque[Change] = field(default_factory=deque)
    first: int = 0
    """The position of ``changes[0]`` in the log since the start."""
    oldest: int = 0
    """A watch can start after this version or later ones."""


class Store:
    """See the module."""

    def __init__(self, convert: Convert, *, history_limit: int = HISTORY_LIMIT) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = 1
        self._convert = convert
        self._history_limit = history_limit
        self._tables: dict[Key, Table] = {}
        self._compacted = 0

    def table(self, kind: Kind) -> Table:
        """The kind's objects; hold the lock while walking them."""
        found = self._tables.get(kind.key)
        if found is None:
            with self.lock:
                found = self._tables.setdefault(kind.key, Table(oldest=self._compacted))
        return found

    def find(self, kind: Kind, namespace: str, name: str) -> Entry | None:
        """One object, without waiting for writers."""
        return self.table(kind).entries.get((namespace, name))

    def put(self, kind: Kind, entry: Entry) -> Entry:
        """Store a new state under a new version (lock held by the caller) and wake the watches."""
        table = self.table(kind)
        before = table.entries.get(entry.key)
        self._stamp(entry)
        table.entries[entry.key] = entry
        self._record(table, "MODIFIED" if before else "ADDED", entry, before)
        return entry

    def remove(self, kind: Kind, key: Key) -> Entry:
        """Delete (lock held by the caller); the last state gets the version of the deletion."""
        table = self.table(kind)
        before = table.entries.pop(key)
        last = Entry({**before.obj, "metadata": dict(before.obj["metadata"])}, 0)
        self._stamp(last)
        self._record(table, "DELETED", last, before)
        return last

    def _stamp(self, entry: Entry) -> None:
        self.version += 1
        entry.version = self.version
        entry.obj["metadata"]["resourceVersion"] = str(self.version)

    def _record(self, table: Table, kind: str, after: Entry, before: Entry | None) -> None:
        table.changes.append(Change(after.version, kind, after, before))
        while len(table.changes) > self._history_limit:
            table.oldest = table.changes.popleft().version
            table.first += 1
        self.changed.notify_all()

    def compact(self) -> None:
        """Forget the past, as etcd does after five minutes: older versions and pages answer 410."""
        with self.lock:
            self._compacted = self.version
            for table in self._tables.values():
                table.first += len(table.changes)
                table.changes.clear()
                table.oldest = self.version
            self.changed.notify_all()

    def changes_after(self, kind: Kind, version: int) -> int:
        """The log position from which to read what happened after ``version``; raises StatusError (410)."""
        with self.lock:
            table = self.table(kind)
            if version < table.oldest:
                raise too_old(version, table.oldest)
            skipped = sum(1 for change in table.changes if change.version <= version)
            return table.first + skipped

    def encode(self, kind: Kind, entry: Entry, version: str) -> bytes:
        """The object's JSON in an API version, kept for the next reader."""
        raw = entry.raw.get(version)
        if raw is None:
            obj = self._convert(entry.obj, kind, version)
            raw = entry.raw[version] = encode(obj)
        return raw

    def encode_item(self, kind: Kind, entry: Entry, version: str) -> bytes:
        """The object as an item of a list, where the real server leaves apiVersion and kind out for its own kinds."""
        if "." in kind.group and not kind.group.endswith(".k8s.io"):
            return self.encode(kind, entry, version)
        raw = entry.raw.get(f"{version} item")
        if raw is None:
            obj = self._convert(entry.obj, kind, version)
            bare = {key: value for key, value in obj.items() if key not in {"apiVersion", "kind"}}
            raw = entry.raw[f"{version} item"] = encode(bare)
        return raw


def encode(obj: dict[str, Any]) -> bytes:
    """Compact JSON."""
    return json.dumps(obj, separators=(",", ":"), ensure_ascii=False).encode()


def too_old(version: int, oldest: int) -> StatusError:
    """The answer to a watch from a forgotten version."""
    return StatusError(410, f"too old resource version: {version} ({oldest})")
