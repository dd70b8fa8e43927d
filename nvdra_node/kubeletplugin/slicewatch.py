"""A thread that watches our slices and keeps what it sees until ``publisher`` takes it.

Started with the version of a list; when the stream cannot go on it reports a gap and waits for the next list. Runs
beside the publisher because a watch blocks, and because what it sees can only be judged when a write has returned.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from nvdra_core import log
from nvdra_core.clock import Clock, Deadline
from nvdra_core.errors import ApiError
from nvdra_core.kube.retry import Backoff
from nvdra_core.value import Value
from nvdra_node.kubeletplugin.sliceapi import SliceEvents, Slices

MAX_EVENTS = 1000
CONNECT_S = 30.0
JOIN_S = 2.0

_log = log.get(__name__)


class Seen(Value):
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
        self._go = threading.Event()
        self._stopped = threading.Event()
        self._events: deque[Seen] = deque(maxlen=MAX_EVENTS)
        self._own_deletions: set[str] = set()
        self._stream: SliceEvents | None = None
        self._thread: threading.Thread | None = None
        self._backoff = Backoff(first_s=1.0, limit_s=60.0)
        self._failures = 0

    def start(self, resource_version: str) -> None:
        """Watch from a list on, unless a watch is running already."""
        with self._lock:
            if self._from is not None or self._stopped.is_set():
                return
            self._from = resource_version
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
        pause_s = 0.0
        try:
            stream = self._slices.watch(self._from or "", Deadline(CONNECT_S, self._clock))
            with self._lock:
                if self._stopped.is_set():
                    return
                self._stream = stream
            for event in stream:
                self._failures = 0
                self._note(event.obj["metadata"], is_deletion=event.type == "DELETED")
        except ApiError as error:
            if error.status != 410:
                pause_s = self._backoff.pause_s(self._failures)
                self._failures += 1
                _log.warning("watch of slices ended", error, pause_s=round(pause_s, 1))
        self._clock.wait(self._stopped, pause_s)
        with self._lock:
            self._stream = None
            self._from = None
            self._go.clear()
            if self._stopped.is_set():
                self._go.set()
            self._events.append(Seen(is_gap=True))
        self._seen()

    def _note(self, metadata: dict[str, str], *, is_deletion: bool) -> None:
        with self._lock:
            if is_deletion and metadata["name"] in self._own_deletions:
                self._own_deletions.discard(metadata["name"])
                return
            self._events.append(Seen(metadata.get("resourceVersion", ""), is_deletion))
        self._seen()
