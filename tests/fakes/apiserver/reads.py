"""Lists and watches of the fake: selection, pages, changes in order, bookmarks, and 410 for what is forgotten."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from tests.fakes.apiserver import selectors
from tests.fakes.apiserver.kinds import Kind, Route
from tests.fakes.apiserver.selectors import Predicate
from tests.fakes.apiserver.status import StatusError
from tests.fakes.apiserver.store import Change, Entry, Store, encode, too_old

PAGES_KEPT = 64
TICK_S = 1.0
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class LaterPages:
    """What later pages of one list will say."""

    entries: list[Entry]
    version: int


class Reader:
    """See the module. Safe for several threads."""

    def __init__(self, store: Store, *, bookmark_interval_s: float) -> None:
        self.bookmark_interval_s = bookmark_interval_s
        self._store = store
        self._lock = threading.Lock()
        self._later_pages: OrderedDict[str, LaterPages] = OrderedDict()
        self._epoch = 0

    def end_watches(self) -> None:
        """Close all watches that are open now, as a restarting API server does."""
        with self._store.lock:
            self._epoch += 1
            self._store.changed.notify_all()

    def list_objects(self, kind: Kind, route: Route) -> bytes:
        """The JSON of a list, or of a page of it."""
        pages = self._select_pages(kind, route)
        limit = _number(route, "limit")
        page, later = pages.entries, []
        if limit and len(page) > limit:
            page, later = page[:limit], page[limit:]
        metadata: dict[str, object] = {"resourceVersion": str(pages.version)}
        if later:
            metadata["continue"] = self._keep(LaterPages(later, pages.version))
            if not route.query.get("fieldSelector") and not route.query.get("labelSelector"):
                metadata["remainingItemCount"] = len(later)
        head = {
            "kind": f"{kind.kind}List",
            "apiVersion": kind.api_version(route.version),
            "metadata": metadata,
        }
        items = b",".join(self._store.encode_item(kind, entry, route.version) for entry in page)
        return encode(head)[:-1] + b',"items":[' + items + b"]}"

    def select(self, kind: Kind, route: Route) -> list[Entry]:
        """All objects that the route's namespace and selectors choose, by name (lock held by the caller)."""
        chosen = predicate(kind, route)
        entries = self._store.table(kind).entries
        return [entries[key] for key in sorted(entries) if chosen(entries[key].obj)]

    def _select_pages(self, kind: Kind, route: Route) -> LaterPages:
        token = route.query.get("continue")
        if not token:
            with self._store.lock:
                return LaterPages(self.select(kind, route), self._store.version)
        try:
            identity = json.loads(base64.urlsafe_b64decode(token))["id"]
        except (binascii.Error, ValueError, KeyError, TypeError):
            raise StatusError(400, "continue key is not valid") from None
        with self._lock:
            pages = self._later_pages.get(identity)
        if pages is None or pages.version < self._store.table(kind).oldest:
            raise StatusError(
                410,
                "The provided continue parameter is too old to display a consistent list result",
            )
        return pages

    def _keep(self, pages: LaterPages) -> str:
        identity = secrets.token_hex(8)
        with self._lock:
            self._later_pages[identity] = pages
            while len(self._later_pages) > PAGES_KEPT:
                self._later_pages.popitem(last=False)
        return base64.urlsafe_b64encode(json.dumps({"id": identity}).encode()).decode()

    def watch(self, kind: Kind, route: Route) -> Iterator[bytes | None]:
        """The lines of a watch; checks the request before it returns (StatusError)."""
        predicate(kind, route)  # an unknown field is refused now, not in the stream
        version = route.query.get("resourceVersion", "")
        wants_initial = route.query.get("sendInitialEvents") == "true"
        if wants_initial and route.query.get("resourceVersionMatch") != "NotOlderThan":
            raise StatusError(
                422,
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                reason="Invalid",
            )
        with self._store.lock:
            if wants_initial or version in {"", "0"}:
                initial = [entry for entry in self.select(kind, route)]
                start = self._store.version
            else:
                initial, start = [], _number(route, "resourceVersion")
                if start > self._store.version:
                    raise StatusError(
                        504, f"Too large resource version: {start}, current: {self._store.version}",
                        details={"retryAfterSeconds": 1, "causes": [{"reason": "ResourceVersionTooLarge"}]},
                    )  # fmt: skip
            position = self._store.changes_after(kind, start)
        return _Stream(self, kind, route, position, start).lines(
            initial, ends_initial=wants_initial
        )

    @property
    def epoch(self) -> int:
        """Counts ``end_watches``."""
        return self._epoch

    @property
    def store(self) -> Store:
        """Where watches read."""
        return self._store


class _Stream:
    """One open watch."""

    def __init__(
        self, reader: Reader, kind: Kind, route: Route, position: int, version: int
    ) -> None:
        self._reader = reader
        self._store = reader.store
        self._kind = kind
        self._route = route
        self._chosen = predicate(kind, route)
        self._position = position
        self._epoch = reader.epoch
        self._version = version
        self._has_bookmarks = route.query.get("allowWatchBookmarks") in {"true", "1"}

    def lines(self, initial: list[Entry], *, ends_initial: bool) -> Iterator[bytes | None]:
        """Events as JSON lines; None at least once a second."""
        for entry in initial:
            yield self._line("ADDED", entry)
        if ends_initial and self._has_bookmarks:
            yield self._bookmark({INITIAL_EVENTS_END: "true"})
        ends_at_s = time.monotonic() + (_number(self._route, "timeoutSeconds") or 1800)
        bookmark_at_s = time.monotonic() + self._reader.bookmark_interval_s
        while not self._is_over():
            now_s = time.monotonic()
            try:
                changes = self._next(min(TICK_S, ends_at_s - now_s, bookmark_at_s - now_s))
            except StatusError as error:
                yield encode({"type": "ERROR", "object": error.body()}) + b"\n"
                return
            yield self._events(changes)
            now_s = time.monotonic()
            if self._has_bookmarks and now_s >= min(bookmark_at_s, ends_at_s):
                bookmark_at_s = now_s + self._reader.bookmark_interval_s
                yield self._bookmark({})
            if now_s >= ends_at_s:
                return

    def _is_over(self) -> bool:
        return self._epoch != self._reader.epoch

    def _next(self, timeout_s: float) -> list[Change]:
        """What is new in the log, after waiting for it; raises StatusError (410) when it was forgotten."""
        table = self._store.table(self._kind)
        with self._store.changed:
            if self._position >= table.first + len(table.changes):
                self._store.changed.wait(max(timeout_s, 0.0))
            if self._position < table.first:
                raise too_old(self._version, table.oldest)
            start = self._position - table.first
            changes = [table.changes[index] for index in range(start, len(table.changes))]
            self._position += len(changes)
            # The whole store's version: nothing of this kind happened up to it, so a bookmark may say so.
            self._version = self._store.version
            return changes

    def _events(self, changes: list[Change]) -> bytes | None:
        lines = b"".join(self._event(change) for change in changes)
        return lines or None

    def _event(self, change: Change) -> bytes:
        is_in = change.type != "DELETED" and self._chosen(change.after.obj)
        was_in = change.before is not None and self._chosen(change.before.obj)
        if is_in:
            return self._line("MODIFIED" if was_in else "ADDED", change.after)
        return self._line("DELETED", change.after) if was_in else b""

    def _line(self, kind: str, entry: Entry) -> bytes:
        raw = self._store.encode(self._kind, entry, self._route.version)
        return b'{"type":"' + kind.encode("ascii") + b'","object":' + raw + b"}\n"

    def _bookmark(self, annotations: dict[str, str]) -> bytes:
        metadata: dict[str, object] = {
            "resourceVersion": str(self._version),
            "creationTimestamp": None,
        }
        if annotations:
            metadata["annotations"] = annotations
        obj = {
            "kind": self._kind.kind,
            "apiVersion": self._kind.api_version(self._route.version),
            "metadata": metadata,
        }
        return encode({"type": "BOOKMARK", "object": obj}) + b"\n"


def predicate(kind: Kind, route: Route) -> Predicate:
    """What the route selects; raises StatusError (400) for selectors the kind does not have."""
    tests: list[Predicate] = []
    if route.namespace:
        tests.append(lambda obj: obj["metadata"].get("namespace") == route.namespace)
    if route.name:  # the old form of a watch of one object
        tests.append(lambda obj: obj["metadata"]["name"] == route.name)
    if fields := route.query.get("fieldSelector"):
        tests.append(selectors.parse_fields(fields, kind))
    if labels := route.query.get("labelSelector"):
        tests.append(selectors.parse_labels(labels))
    return lambda obj: all(test(obj) for test in tests)


def _number(route: Route, key: str) -> int:
    text = route.query.get(key, "") or "0"
    if not text.isdigit():
        raise StatusError(400, f"{key}: Invalid value: {text!r}")
    return int(text)
