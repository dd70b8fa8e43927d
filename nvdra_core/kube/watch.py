"""A resumed watch for ``nvdra_cluster.control.watching``, which will use ``reflector`` in its place."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator

import msgspec

from nvdra_core.errors import ApiError
from nvdra_core.kube.client import Client
from nvdra_core.kube.errors import RelistError, TransportError
from nvdra_core.kube.listwatch import ClientListWatch
from nvdra_core.kube.reflector import (
    SILENCE_S,
    STABLE_S,
    WATCH_JITTER_S,
    WATCH_S,
    WatchStream,
    status_error,
)
from nvdra_core.kube.resources import EVERYTHING, JsonObject, Resource, Selector
from nvdra_core.kube.retry import BROKEN_STATUSES, BUSY_STATUSES, jitter
from nvdra_core.runtime.clock import Deadline

log = logging.getLogger(__name__)


class Event(msgspec.Struct, frozen=True):
    """One change; ``type`` is ADDED, MODIFIED or DELETED, and ``obj`` the object after it (DELETED: the last state)."""

    type: str
    obj: JsonObject


class Watch:
    """See the module; made by ``watch``. Iterate in one thread."""

    def __init__(
        self, client: Client, resource: Resource, namespace: str, selector: Selector, version: str
    ) -> None:
        self.resource_version = version
        """The last version seen, bookmarks included."""
        self._transport = client.transport
        self._source = ClientListWatch(client, resource, namespace=namespace, selector=selector)
        self._path = resource.plural
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._current: WatchStream | None = None
        self._failures = 0
        self._opened_at_s = math.inf

    def stop(self) -> None:
        """End the iteration, from any thread."""
        with self._lock:
            self._stopped.set()
            if self._current is not None:
                self._current.cancel()

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
        timeout_s = WATCH_S + WATCH_JITTER_S * jitter()
        parameters = {
            "resourceVersion": self.resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(timeout_s)),
        }
        stream = self._source.watch(parameters, timeout_s + SILENCE_S)
        with self._lock:
            if self._stopped.is_set():
                return
            self._current = stream
        try:
            stream.open()
            self._opened_at_s = self._transport.clock.monotonic()
            is_empty = True
            for event in stream:
                if event.type == "ERROR":
                    raise status_error(self._path, event.object)
                is_empty, self._failures = False, 0
                if self._is_over():
                    return
                metadata = event.object.get("metadata") or {}
                self.resource_version = str(
                    metadata.get("resourceVersion") or self.resource_version
                )
                if event.type in {"ADDED", "MODIFIED", "DELETED"}:
                    yield Event(event.type, event.object)
            if is_empty and not self._has_lasted() and not self._is_over():
                raise TransportError(f"watch of {self._path}: the server ended it at once")
        finally:
            with self._lock:
                self._current = None
            stream.close()

    def _has_lasted(self) -> bool:
        return self._transport.clock.monotonic() - self._opened_at_s >= STABLE_S


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
