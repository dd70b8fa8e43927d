"""A thread that watches our slices and keeps what it sees until ``publisher`` takes it.

Started with the version of a list; when the stream cannot go on it reports a gap and waits for the next list. The
first watch may begin with what there is, which saves the list. Where the server cannot do that, or takes long over it,
the publisher lists, and the watch goes on from there. Runs beside the publisher because a watch blocks, and because
what it sees can only be judged when a write has returned.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import msgspec

from nvdra_core.errors import ApiError
from nvdra_core.kube.resources import ObjectList
from nvdra_core.kube.retry import Backoff
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.kubeletplugin.slices.client import SliceEvents, Slices

MAX_EVENTS = 1000
CONNECT_S = 30.0
JOIN_S = 2.0

_LOG = log.get(__name__)


class Seen(msgspec.Struct, frozen=True):
    """One event; ``is_gap``: something may have been missed."""

    version: str = ""
    is_deletion: bool = False
    is_gap: bool = False


class SliceWatch:
    """See the module. ``seen`` is called, from the thread, when there is something to take."""

    def __init__(self, slices: Slices, clock: Clock, seen: Callable[[], None]) -> None:
        self._slices = slices
        self._clock = clock
        self._seen = seen
        self._lock = threading.Lock()
        self._from: str | None = None
        """Where the watch that runs began; empty: with what there is. None: none runs."""
        self._is_beginning = False
        """It has not said yet what there is."""
        self._listing: ObjectList | None = None
        self._go = threading.Event()
        self._begun = threading.Event()
        """The server has said what there is, or never will."""
        self._stopped = threading.Event()
        self._events: deque[Seen] = deque(maxlen=MAX_EVENTS)
        self._own_deletions: set[str] = set()
        self._stream: SliceEvents | None = None
        self._thread: threading.Thread | None = None
        self._backoff = Backoff(first_s=1.0, limit_s=60.0)
        self._failures = 0

    def begin(self) -> None:
        """Watch from what there is on; ``listing`` has that when the server has told it."""
        self._launch("")

    def has_listing(self) -> bool:
        """Whether ``listing`` would give something."""
        return self._listing is not None

    def has_devices(self) -> bool:
        """Whether ``listing`` would give slices with devices."""
        with self._lock:
            items = self._listing.items if self._listing is not None else ()
            return any(item["spec"].get("devices") for item in items)

    def listing(self, wait_s: float) -> ObjectList | None:
        """What there is, if the watch began with it and has seen no change since; given once. Waits only for a watch
        that has begun and said nothing."""
        if self._is_beginning:
            self._clock.wait(self._begun, wait_s)
        with self._lock:
            found, self._listing = self._listing, None
            return found

    def start(self, resource_version: str) -> None:
        """Watch from a list on, unless a watch is running already that knows what there was."""
        self._launch(resource_version)

    def _launch(self, start: str) -> None:
        with self._lock:
            is_running = self._from is not None and not self._is_beginning
            if is_running or self._stopped.is_set():
                return
            self._from = start
            self._is_beginning = not start
            if self._stream is not None:
                self._stream.stop()
            self._go.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="slice-watch", daemon=True)
                self._thread.start()

    def expect_deletion(self, name: str) -> None:
        """We are about to delete this slice ourselves."""
        with self._lock:
            self._own_deletions.add(name)

    def take(self) -> list[Seen]:
        """What was seen since the last call."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
        return events

    def stop(self) -> None:
        """End the thread; from any thread."""
        with self._lock:
            self._stopped.set()
            self._begun.set()
            self._go.set()
            if self._stream is not None:
                self._stream.stop()

    def join(self) -> None:
        """Wait for the thread's end, after ``stop``."""
        if self._thread is not None:
            self._thread.join(JOIN_S)

    def _run(self) -> None:
        while True:
            self._go.wait()
            if self._stopped.is_set():
                return
            self._follow()

    def _follow(self) -> None:
        """One watch, to its end."""
        start = self._from or ""
        pause_s = 0.0
        try:
            self._iterate(start)
        except ApiError as error:
            if self._is_beginning:
                _LOG.info("the server does not begin a watch with a list", v=2, error=str(error))
            elif error.status != 410:
                pause_s = self._backoff.pause_s(self._failures)
                self._failures += 1
                _LOG.warning("watch of slices ended", error, pause_s=round(pause_s, 1))
        self._clock.wait(self._stopped, pause_s)
        self._end(start)

    def _iterate(self, start: str) -> None:
        stream = self._open(start, Deadline(CONNECT_S, self._clock))
        with self._lock:
            if self._stopped.is_set() or self._from != start:
                return
            self._stream = stream
        for event in stream:
            self._failures = 0
            self._note(event.obj["metadata"], is_deletion=event.type == "DELETED")

    def _open(self, start: str, limit: Deadline) -> SliceEvents:
        if start:
            return self._slices.watch(start, limit)
        return self._slices.watch_all(self._have_listing, limit)

    def _end(self, start: str) -> None:
        """Wait for the next list, unless the publisher did not wait for ours and has given its own."""
        self._begun.set()
        with self._lock:
            self._stream = self._listing = None
            if self._from != start:
                return
            is_gap = not self._is_beginning
            self._from, self._is_beginning = None, False
            self._go.clear()
            if self._stopped.is_set():
                self._go.set()
            if is_gap:
                self._events.append(Seen(is_gap=True))
        if is_gap:
            self._seen()

    def _have_listing(self, found: ObjectList) -> None:
        with self._lock:
            if self._is_beginning:
                self._listing, self._is_beginning = found, False
        self._begun.set()

    def _note(self, metadata: dict[str, str], *, is_deletion: bool) -> None:
        with self._lock:
            self._listing = None
            if is_deletion and metadata["name"] in self._own_deletions:
                self._own_deletions.discard(metadata["name"])
                return
            self._events.append(Seen(metadata.get("resourceVersion", ""), is_deletion))
        self._seen()
