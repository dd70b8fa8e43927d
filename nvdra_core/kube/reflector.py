"""Keeps a local store current with a selection of API objects: list, then watch, as client-go's Reflector does.

A Reflector runs in one thread (``run``). It reads the selection (in pages, or by a watch that begins with the current
state, KEP-3157), passes it to ``Store.replace``, and applies later changes with ``put`` and ``delete``. A lost watch is
resumed from the last resourceVersion, bookmarks included; when the server no longer has that version (410) or refuses
the watch, the selection is listed again. Failures are retried with exponential backoff and never end ``run``; only
``stop`` and a closed client do. No other module of the project lists and watches.

The API is reached through a ``ListerWatcher``, so the Reflector works on any Kubernetes client:
``listwatch.ClientListWatch`` is the one for ``client.Client``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import msgspec

from nvdra_core.errors import ApiError
from nvdra_core.kube.errors import ClosedError, TransportError
from nvdra_core.kube.resources import JsonObject
from nvdra_core.kube.retry import BROKEN_STATUSES, BUSY_STATUSES, Backoff, jitter
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock

PAGE_SIZE = 500
WATCH_S = 240.0
WATCH_JITTER_S = 60.0
"""A watch lasts WATCH_S plus a random part of this, which spreads the reconnects of many clients."""
SILENCE_S = 15.0
"""A connection still open this long after the requested end is closed."""
STABLE_S = 1.0
"""A watch that stayed open this long, or delivered an event, resets the backoff."""
INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""Annotation of the bookmark that ends the current state (KEP-3157)."""
STREAM_REFUSALS = frozenset({400, 404, 422})
"""Answers to a watch with sendInitialEvents where the gate WatchList is off or the API version is not served."""

_LOG = log.get(__name__)


class WatchEvent(msgspec.Struct, frozen=True):
    """One line of a watch: ``type`` is ADDED, MODIFIED, DELETED, BOOKMARK or ERROR (then ``object`` is a Status)."""

    type: str
    object: JsonObject


class WatchStream(Protocol):
    """One watch request. ``cancel`` is called by any thread, everything else by the reflector's."""

    def open(self) -> None:
        """Connect and wait for the answer's headers. Raises ApiError (the HTTP status, or 0 without an answer)."""

    def __iter__(self) -> Iterator[WatchEvent]:
        """Events until the server ends the watch, or ``cancel``. Raises ApiError (status 0) for a lost connection."""

    def cancel(self) -> None:
        """End ``open`` (TransportError) or the iteration (no error) in the other thread; may be called again."""

    def close(self) -> None:
        """Release the connection, in whatever state it is."""


class ListerWatcher(Protocol):
    """Lists and watches one selection of one kind; both methods raise ApiError, and ClosedError to end ``run``.

    Parameters are the API's own query parameters (``limit``, ``continue``, ``resourceVersion``, ...); the
    implementation adds the path, the selectors and ``watch=1``.
    """

    @property
    def name(self) -> str:
        """The selection, for logs and errors, e.g. the resource's plural."""

    def list_page(self, parameters: Mapping[str, str]) -> JsonObject:
        """One page: a List object as the API answers it."""

    def watch(self, parameters: Mapping[str, str], timeout_s: float) -> WatchStream:
        """A watch that is not open yet; it closes a connection that is still open after ``timeout_s``."""


class Store(Protocol):
    """What a Reflector keeps current; all methods are called from its thread. Exceptions end ``run``."""

    def replace(self, objects: Iterable[JsonObject]) -> None:
        """Take the complete current state: an object that is not in it has been deleted.

        ``objects`` is read from the API while it is iterated, page by page, and must be exhausted. It raises ApiError
        when the list fails midway: let it pass, ``replace`` is then called again. Objects of Kubernetes' own kinds
        lack apiVersion and kind, as in the API.
        """

    def put(self, obj: JsonObject) -> None:
        """Take the new state of an object (ADDED or MODIFIED)."""

    def delete(self, obj: JsonObject) -> None:
        """Drop an object; ``obj`` is its last state, with the resourceVersion of the deletion."""


class Failure(msgspec.Struct, frozen=True):
    """Consecutive failures: when they began (the clock's monotonic time) and the last error."""

    since_s: float
    message: str


class ReflectorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to begin and how to retry.

    ``resource_version``: watch from this version and do not list first; for a caller that has listed.
    ``is_streaming``: list by a watch with sendInitialEvents (one request), and in pages where the server refuses that.
    """

    resource_version: str = ""
    is_streaming: bool = False
    backoff: Backoff = Backoff(first_s=0.2, limit_s=15.0)


DEFAULT_SETTINGS = ReflectorSettings()


class Reflector:
    """See the module. ``run`` in a thread of its own; everything else from any thread."""

    def __init__(
        self,
        source: ListerWatcher,
        store: Store,
        clock: Clock,
        settings: ReflectorSettings = DEFAULT_SETTINGS,
    ) -> None:
        self.name = source.name
        self.resource_version = settings.resource_version
        """Of the last complete list, event or bookmark. Not yet that of a list that ``Store.replace`` is reading."""
        self.synced = threading.Event()
        """Set once the first list is complete."""
        self.relisted = threading.Event()
        """Set once a list is complete that began after the last ``relist``."""
        self._source = source
        self._store = store
        self._clock = clock
        self._backoff = settings.backoff
        self._is_streaming = settings.is_streaming
        self._needs_list = not settings.resource_version
        self._requested = 0
        """Calls of ``relist``; ``_answered`` is the number at the start of the last complete list."""
        self._answered = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._stream: WatchStream | None = None
        self._is_interrupted = False
        self._opened_at_s = math.inf
        self._failures = 0
        self._failure: Failure | None = None
        if not self._needs_list:
            self.synced.set()
            self.relisted.set()

    def run(self) -> None:
        """List and watch until ``stop``, or until the source raises ClosedError."""
        while not self._stopped.is_set():
            self._opened_at_s, self._is_interrupted = math.inf, False
            try:
                self._list_and_watch()
            except ClosedError:
                return
            except ApiError as error:
                if not self._is_interrupted and not self._stopped.is_set():
                    self._recover(error)

    def stop(self) -> None:
        """End ``run`` soon; a page that is being read is finished first."""
        with self._lock:
            self._stopped.set()
            self._interrupt()

    def relist(self) -> None:
        """List everything again now, and clear ``relisted`` until that is done."""
        with self._lock:
            self._requested += 1
            self.relisted.clear()
            self._interrupt()

    def _interrupt(self) -> None:
        if self._stream is not None:
            self._is_interrupted = True
            self._stream.cancel()

    def failure(self) -> Failure | None:
        """The failures in progress; None while the selection is followed."""
        return None if self._is_stable() else self._failure

    def _list_and_watch(self) -> None:
        """One watch to its end, after a list where one is needed."""
        requested = self._requested
        if not self._needs_list and requested == self._answered:
            with self._open({"resourceVersion": self.resource_version}) as stream:
                self._follow(stream)
        elif self._is_streaming:
            # Without a version: the newest state, not that of a watch cache that lags behind.
            initial = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
            with self._open({"resourceVersion": "", **initial}) as stream:
                events = iter(stream)
                self._store.replace(self._initial_objects(events))
                self._note_synced(requested)
                self._follow(events)
        else:
            self._store.replace(self._listed_objects())
            self._note_synced(requested)

    def _note_synced(self, requested: int) -> None:
        self._needs_list = False
        self.synced.set()
        with self._lock:
            self._answered = requested
            if requested == self._requested:
                self.relisted.set()

    def _listed_objects(self) -> Iterator[JsonObject]:
        parameters = {"limit": str(PAGE_SIZE)}
        while True:
            page = self._source.list_page(parameters)
            yield from page.get("items") or ()
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                self.resource_version = str(metadata.get("resourceVersion") or "")
                return
            parameters["continue"] = metadata["continue"]

    def _initial_objects(self, events: Iterator[WatchEvent]) -> Iterator[JsonObject]:
        found: dict[tuple[str, str], JsonObject] = {}
        for event in events:
            metadata = self._metadata(event)
            if (metadata.get("annotations") or {}).get(INITIAL_EVENTS_END) == "true":
                self.resource_version = str(metadata.get("resourceVersion") or "")
                yield from found.values()
                return
            key = (metadata.get("namespace") or "", metadata.get("name") or "")
            # Also changes: the server's watch cache may have begun before the state that the watch asked for.
            if event.type == "DELETED":
                found.pop(key, None)
            elif event.type != "BOOKMARK":
                found[key] = event.object
        raise TransportError(
            f"watch of {self.name}: it ended before the current state was complete"
        )

    @contextmanager
    def _open(self, parameters: Mapping[str, str]) -> Iterator[WatchStream]:
        """An open watch that ``stop`` and ``relist`` can end."""
        timeout_s = WATCH_S + WATCH_JITTER_S * jitter()
        parameters = {
            **parameters,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(timeout_s)),
        }
        stream = self._source.watch(parameters, timeout_s + SILENCE_S)
        with self._lock:
            if self._stopped.is_set():
                raise ClosedError("the reflector is stopped")
            self._stream = stream
        try:
            stream.open()
            self._opened_at_s = self._clock.monotonic()
            yield stream
        finally:
            with self._lock:
                self._stream = None
            stream.close()

    def _follow(self, events: Iterable[WatchEvent]) -> None:
        """Apply changes until the watch ends."""
        if self._requested != self._answered:
            return
        is_empty = True
        for event in events:
            metadata = self._metadata(event)
            if self._stopped.is_set():
                return
            is_empty, self._failures, self._failure = False, 0, None
            if event.type == "DELETED":
                self._store.delete(event.object)
            elif event.type in {"ADDED", "MODIFIED"}:
                self._store.put(event.object)
            self.resource_version = str(metadata.get("resourceVersion") or self.resource_version)
        if is_empty and not self._is_interrupted and not self._is_stable():
            raise TransportError(f"watch of {self.name}: the server ended it at once")

    def _metadata(self, event: WatchEvent) -> JsonObject:
        if event.type == "ERROR":
            raise status_error(self.name, event.object)
        return event.object.get("metadata") or {}

    def _is_stable(self) -> bool:
        return self._clock.monotonic() - self._opened_at_s >= STABLE_S

    def _recover(self, error: ApiError) -> None:
        """Decide whether the watch is resumed or the selection listed again, and pause."""
        is_expired = error.status == 410 or "Too large resource version" in str(error)
        if self._is_streaming and error.status in STREAM_REFUSALS:
            self._is_streaming, self._needs_list = False, True
            _LOG.info("watch cannot begin with a list; using pages", v=2, resource=self.name)
            return
        is_passing = isinstance(error, TransportError) or (
            error.status in BUSY_STATUSES | BROKEN_STATUSES
        )
        self._needs_list = self._needs_list or is_expired or not is_passing
        if self._is_stable():
            self._failures, self._failure = 0, None
        since_s = self._failure.since_s if self._failure else self._clock.monotonic()
        self._failure = Failure(since_s, str(error))
        pause_s = self._backoff.pause_s(self._failures) + (error.retry_after_s or 0.0)
        self._failures += 1
        if self._failures == 3 or not (is_passing or is_expired):
            _LOG.warning("watch interrupted", error, resource=self.name, pause_s=round(pause_s, 1))
        self._clock.wait(self._stopped, pause_s)


def status_error(name: str, status: JsonObject) -> ApiError:
    """The error of an ERROR event."""
    return ApiError(
        f"watch of {name}: {status.get('message')}",
        status=int(status.get("code") or 500),
        api_reason=str(status.get("reason") or ""),
    )
