"""A bounded queue of writes about claims, and its thread. Used by ``status_writer`` and ``wait_events``."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from nvdra_core.runtime.clock import Clock

MAX_QUEUED = 256
JOIN_S = 2.0

T = TypeVar("T")


class Outbox(Generic[T]):
    """The newest item of each claim, oldest first; a full queue drops the oldest. Thread safe."""

    def __init__(self, name: str, write: Callable[[str, T], float], clock: Clock) -> None:
        """``write`` gets a claim UID and its item; returns the seconds until the next write. Must not raise."""
        self._name = name
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._items: OrderedDict[str, T] = OrderedDict()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Items that a full queue dropped."""

    def put(self, uid: str, item: T, *, is_retry: bool = False) -> None:
        """Queue an item in place of the claim's older one; a retry only if there is no newer one. Never blocks."""
        with self._lock:
            if self._stopped.is_set() or (is_retry and uid in self._items):
                return
            self._items.pop(uid, None)
            if len(self._items) >= MAX_QUEUED:
                self._items.popitem(last=False)
                self.dropped += 1
            self._items[uid] = item
        if not is_retry:
            self._wake.set()

    def discard(self, uid: str) -> None:
        """Drop the item of a claim."""
        with self._lock:
            self._items.pop(uid, None)

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; queued items are not written."""
        with self._lock:
            self._stopped.set()
            self._items.clear()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)

    def write_next(self) -> float:
        """Write one item; seconds until the next may be written. For the thread, and for tests."""
        with self._lock:
            if not self._items:
                return 0.0
            uid, item = self._items.popitem(last=False)
        return self._write(uid, item)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait()
            self._wake.clear()
            while self._items:
                if pause_s := self.write_next():
                    self._clock.wait(self._stopped, pause_s)
