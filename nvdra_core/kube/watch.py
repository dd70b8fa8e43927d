"""Watches: changes of a kind as they happen, surviving lost connections, until somebody stops them.

``Watch`` goes on from a resourceVersion and raises RelistError when the server has forgotten it. ``InitialWatch``
begins with the current state, in one request, where the server can. ``follow`` does the whole of it: list, then
changes, and a new list whenever one is needed; most callers want that. All block the thread
that iterates; ``stop`` from any other thread ends a watch within a second, even while connecting, and the client's
``close`` ends everything.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec

from nvdra_core.errors import ApiError
from nvdra_core.kube.client import Client, query
from nvdra_core.kube.errors import ClosedError, RelistError, TransportError
from nvdra_core.kube.resources import (
    EVERYTHING,
    JsonObject,
    ObjectList,
    Resource,
    Selector,
)
from nvdra_core.kube.retry import BROKEN_STATUSES, BUSY_STATUSES, jitter
from nvdra_core.kube.transport import Request
from nvdra_core.kube.wire import BODY_LIMIT, Connection
from nvdra_core.runtime.clock import Deadline

TIMEOUT_S = 240.0
TIMEOUT_JITTER_S = 60.0
SILENCE_S = 15.0
"""How long after the promised end of a watch its connection is given up."""
SHORT_S = 1.0
"""A server or a proxy that ends watches sooner, and empty, is not asked again at once."""
HEAD_TIMEOUT_S = 30.0
EVENT_TYPES = frozenset({"ADDED", "MODIFIED", "DELETED"})
INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""Annotation of the bookmark that ends the current state (KEP-3157)."""

log = logging.getLogger(__name__)


class Event(msgspec.Struct, frozen=True):
    """One change; ``type`` is ADDED, MODIFIED or DELETED, and ``obj`` the object after it (DELETED: the last state)."""

    type: str
    obj: JsonObject


class Listing(msgspec.Struct, frozen=True):
    """All objects there are now: what is not among them is gone, also when its deletion was never seen."""

    items: list[JsonObject]


class LineSplitter:
    """Bytes in pieces in, whole lines out."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that ``piece`` completes, without their ends; raises TransportError for one without an end."""
        searched_from = len(self._rest)
        self._rest += piece
        if self._rest.find(b"\n", searched_from) < 0:
            if len(self._rest) > BODY_LIMIT:
                raise TransportError("an event of the watch has no end")
            return []
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest
        return [bytes(line) for line in lines if line.strip()]


class Watch:
    """See the module; made by ``watch``. Iterate in one thread."""

    def __init__(
        self, client: Client, resource: Resource, namespace: str, selector: Selector, version: str
    ) -> None:
        self.resource_version = version
        """The last version seen, bookmarks included."""
        self._transport = client.transport
        self._path = resource.path(namespace=namespace)
        self._parameters = {**selector.parameters(), "watch": "1", "allowWatchBookmarks": "true"}
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._failures = 0
        self._opened_at_s = math.inf

    def stop(self) -> None:
        """End the iteration, from any thread."""
        with self._lock:
            self._stopped.set()
            if self._connection is not None:
                self._connection.abort()

    def __iter__(self) -> Iterator[Event]:
        """Events in order. Ends after ``stop`` or the client's ``close``; raises RelistError (410) and ApiError."""
        while not self._is_over():
            yield from self._attempt()

    def _attempt(self) -> Iterator[Event]:
        """One connection's events, and the pause after its failure."""
        self._opened_at_s = math.inf
        try:
            yield from self._stream()
        except ApiError as error:
            if not self._is_over():
                self._endure(error)

    def _is_over(self) -> bool:
        return self._stopped.is_set() or self._transport.closed.is_set()

    def _endure(self, error: ApiError) -> None:
        """Wait before the next try, or raise what no waiting can help."""
        if isinstance(error, RelistError):
            raise error
        if error.status == 410 or "Too large resource version" in str(error):
            raise RelistError(str(error)) from error
        is_passing = (
            isinstance(error, TransportError) or error.status in BUSY_STATUSES | BROKEN_STATUSES
        )
        renewed = error.status == 401 and self._transport.credentials.refresh()
        if not is_passing and not renewed:
            raise error
        if self._has_lasted():
            self._failures = 0
        pause_s = self._transport.settings.backoff.pause_s(self._failures)
        if error.retry_after_s is not None:
            pause_s += error.retry_after_s
        self._failures += 1
        log.log(
            logging.WARNING if self._failures == 3 else logging.DEBUG,
            "watch of %s interrupted, going on in %.1f s: %s", self._path, pause_s, error,
        )  # fmt: skip
        self._wait(pause_s)

    def _wait(self, seconds: float) -> None:
        """Sleep in short pieces, since two events can end it."""
        limit = Deadline(seconds, self._transport.clock)
        while (left_s := limit.remaining_s()) > 0 and not self._transport.closed.is_set():
            if self._transport.clock.wait(self._stopped, min(left_s, 0.5)):
                return

    def _stream(self) -> Iterator[Event]:
        timeout_s = TIMEOUT_S + TIMEOUT_JITTER_S * jitter()
        parameters = {**self._position(), "timeoutSeconds": str(int(timeout_s))}
        request = Request("GET", query(self._path, parameters))
        connection = self._connect()
        try:
            limit = Deadline(HEAD_TIMEOUT_S, self._transport.clock)
            head = self._transport.open_stream(request, connection, limit)
            self._opened_at_s = self._transport.clock.monotonic()
            splitter = LineSplitter()
            limit = Deadline(timeout_s + SILENCE_S, self._transport.clock)
            is_empty = True
            for piece in connection.stream_body(head, limit):
                for line in splitter.feed(piece):
                    event = self._decode(line)
                    is_empty, self._failures = False, 0
                    if self._is_over():
                        return
                    if event is not None:
                        yield event
            if is_empty and not self._has_lasted():
                raise TransportError(f"watch of {self._path}: the server ended it at once")
        finally:
            with self._lock:
                self._connection = None
            self._transport.pool.forget(connection)

    def _position(self) -> dict[str, str]:
        """What to ask for now, as query parameters."""
        return {**self._parameters, "resourceVersion": self.resource_version}

    def _has_lasted(self) -> bool:
        """Whether the server held the watch open for a while: then it is well."""
        return self._transport.clock.monotonic() - self._opened_at_s >= SHORT_S

    def _connect(self) -> Connection:
        limit = Deadline(HEAD_TIMEOUT_S, self._transport.clock)
        pool = self._transport.pool
        return pool.dial(self._transport.credentials.current(), limit, self._announce)

    def _announce(self, connection: Connection) -> None:
        with self._lock:
            if self._stopped.is_set():
                raise ClosedError("the watch is stopped", unsent=True)
            self._connection = connection

    def _decode(self, line: bytes) -> Event | None:
        try:
            raw = json.loads(line)
            kind, obj = str(raw["type"]), raw["object"]
            version = str((obj.get("metadata") or {}).get("resourceVersion") or "")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TransportError(f"watch of {self._path}: malformed event: {error}") from error
        if kind == "ERROR":
            raise self._error(obj)
        if version:
            self.resource_version = version
        return self._event(kind, obj)

    def _event(self, kind: str, obj: JsonObject) -> Event | None:
        """What the iteration gives for an event of the server; None: nothing."""
        return Event(kind, obj) if kind in EVENT_TYPES else None

    def _error(self, status: dict[str, Any]) -> ApiError:
        code, message = int(status.get("code") or 500), str(status.get("message"))
        if code == 410:
            return RelistError(f"watch of {self._path}: {message}")
        reason = str(status.get("reason") or "")
        return ApiError(f"watch of {self._path}: {message}", status=code, api_reason=reason)


def watch(
    client: Client,
    resource: Resource,
    *,
    resource_version: str,
    namespace: str = "",
    selector: Selector = EVERYTHING,
) -> Watch:
    """Changes after ``resource_version``, which comes from a list."""
    return Watch(client, resource, namespace, selector, resource_version)


class InitialWatch(Watch):
    """A watch that begins with the current state, consistently, and goes on with changes.

    ``told`` is called with that state, once, in the thread that iterates. A server without the gate WatchList refuses
    such a watch (ApiError 400 or 422). One that knows nothing of it sends changes and never the state: who cannot wait
    for ``told`` stops this watch, lists, and watches from the list.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        selector: Selector,
        told: Callable[[ObjectList], None],
    ) -> None:
        super().__init__(client, resource, "", selector, "")
        self._told: Callable[[ObjectList], None] | None = told
        self._items: list[JsonObject] = []

    def _position(self) -> dict[str, str]:
        if self._told is None:
            return super()._position()
        # From the beginning, also when the connection was lost in the middle of it. Without a version: not from a
        # cache that lags behind.
        self._items = []
        self.resource_version = ""
        return {
            **super()._position(),
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
        }

    def _event(self, kind: str, obj: JsonObject) -> Event | None:
        if self._told is None:
            return super()._event(kind, obj)
        if kind == "ADDED":
            self._items.append(obj)
        elif (obj["metadata"].get("annotations") or {}).get(INITIAL_EVENTS_END) == "true":
            told, items = self._told, self._items
            self._told, self._items = None, []
            told(ObjectList(items, self.resource_version))
        return None


class Source(Protocol):
    """What ``Follow`` follows."""

    def list_now(self) -> ObjectList:
        """The current state."""

    def watch_from(self, version: str) -> Watch:
        """Changes after a list."""

    def convert(self, obj: JsonObject) -> JsonObject:
        """An object of a change, as the caller wants it; those of lists are already so."""


class Follow:
    """List and watch for ever; made by ``follow`` and ``DraApi.follow_slices``. Iterate in one thread."""

    def __init__(self, client: Client, source: Source, name: str) -> None:
        self._transport = client.transport
        self._source = source
        self._name = name
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._watch: Watch | None = None
        self._failures = 0

    def stop(self) -> None:
        """End the iteration, from any thread; a list that is under way is finished first."""
        with self._lock:
            self._stopped.set()
            if self._watch is not None:
                self._watch.stop()

    def __iter__(self) -> Iterator[Listing | Event]:
        """A Listing first and after every gap, Events between; what fails is repeated, at a growing pace."""
        while not self._is_over():
            yield from self._attempt()

    def _attempt(self) -> Iterator[Listing | Event]:
        """One list, its changes, and the pause after a failure."""
        clock, backoff = self._transport.clock, self._transport.settings.backoff
        listed_at_s = math.inf
        try:
            found = self._source.list_now()
            listed_at_s = clock.monotonic()
            yield Listing(found.items)
            yield from self._changes(found.resource_version)
        except ApiError as error:
            if self._is_over():
                return
            if not isinstance(error, RelistError):
                log.warning("following %s: %s", self._name, error)
            # Not at each list: where only the watch is refused, lists alone would follow each other without a rest.
            if clock.monotonic() - listed_at_s > backoff.limit_s:
                self._failures = 0
            clock.wait(self._stopped, backoff.pause_s(self._failures))
            self._failures += 1

    def _is_over(self) -> bool:
        return self._stopped.is_set() or self._transport.closed.is_set()

    def _changes(self, version: str) -> Iterator[Event]:
        with self._lock:
            if self._stopped.is_set():
                return
            self._watch = self._source.watch_from(version)
        for event in self._watch:
            yield Event(event.type, self._source.convert(event.obj))


class _Plain:
    """One kind in one version."""

    def __init__(
        self, client: Client, resource: Resource, namespace: str, selector: Selector
    ) -> None:
        self._client = client
        self._resource = resource
        self._namespace = namespace
        self._selector = selector

    def list_now(self) -> ObjectList:
        return self._client.list(self._resource, namespace=self._namespace, selector=self._selector)

    def watch_from(self, version: str) -> Watch:
        return Watch(self._client, self._resource, self._namespace, self._selector, version)

    def convert(self, obj: JsonObject) -> JsonObject:
        return obj


def follow(
    client: Client,
    resource: Resource,
    *,
    namespace: str = "",
    selector: Selector = EVERYTHING,
) -> Follow:
    """The state of a selection, kept current."""
    return Follow(client, _Plain(client, resource, namespace, selector), resource.plural)
