"""Rate-limited work queue with the semantics of client-go's ``util/workqueue``.

A key is queued at most once; one that is added while it is processed is queued again at ``done``. A delayed key keeps
the earliest of its times. Safe for several threads; time comes from the clock, so tests run on a fake one.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from nvdra_core.kube.retry import Backoff

KeyT = TypeVar("KeyT", bound=Hashable)


class WorkQueue(Generic[KeyT]):
    """See the module."""

    def __init__(self, monotonic: Callable[[], float], backoff: Backoff) -> None:
        """``backoff``: pauses of ``add_rate_limited`` by failures of the same key."""
        self._monotonic = monotonic
        self._backoff = backoff
        self._changed = threading.Condition()
        self._ready: dict[KeyT, None] = {}
        """In order of arrival."""
        self._processing: set[KeyT] = set()
        self._dirty: set[KeyT] = set()
        """Added while they are processed."""
        self._delayed: dict[KeyT, float] = {}
        self._times: list[tuple[float, int, KeyT]] = []
        """Heap of ``_delayed``; entries that no longer match it are skipped."""
        self._sequence = 0
        self._failures: dict[KeyT, int] = {}
        self._is_shut_down = False

    def __len__(self) -> int:
        """Keys that are ready, without the delayed ones."""
        with self._changed:
            return len(self._ready)

    def add(self, *keys: KeyT) -> None:
        """Queue keys now."""
        with self._changed:
            if self._is_shut_down:
                return
            for key in keys:
                if key in self._processing:
                    self._dirty.add(key)
                else:
                    self._ready[key] = None
            self._changed.notify_all()

    def add_after(self, key: KeyT, delay_s: float) -> None:
        """Queue a key after a delay; at once when there is none."""
        if delay_s <= 0.0:
            self.add(key)
            return
        with self._changed:
            at_s = self._monotonic() + delay_s
            if self._is_shut_down or self._delayed.get(key, at_s + 1.0) <= at_s:
                return
            self._sequence += 1
            self._delayed[key] = at_s
            heapq.heappush(self._times, (at_s, self._sequence, key))
            self._changed.notify_all()

    def add_rate_limited(self, key: KeyT, min_delay_s: float = 0.0) -> float:
        """Queue a key that failed, after a growing pause (at least ``min_delay_s``), which is returned."""
        with self._changed:
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
        pause_s = max(min_delay_s, self._backoff.pause_s(failures))
        self.add_after(key, pause_s)
        return pause_s

    def forget(self, key: KeyT) -> None:
        """The key succeeded: its next failure counts as the first."""
        with self._changed:
            self._failures.pop(key, None)

    def get(self, limit: int) -> list[KeyT]:
        """Up to ``limit`` ready keys, oldest first, without blocking. Each must be passed to ``done``."""
        with self._changed:
            self._promote()
            keys = list(self._ready)[:limit]
            for key in keys:
                del self._ready[key]
            self._processing.update(keys)
            return keys

    def done(self, *keys: KeyT) -> None:
        """Processing ended; keys that were added meanwhile are queued again."""
        with self._changed:
            for key in keys:
                self._processing.discard(key)
                if key in self._dirty:
                    self._dirty.discard(key)
                    self._ready[key] = None
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Block until a key is ready, the queue is woken or shut down, or the time is over; whether a key is ready."""
        with self._changed:
            self._promote()
            if not self._ready and not self._is_shut_down:
                self._changed.wait(min(timeout_s, self._next_in_s()))
                self._promote()
            return bool(self._ready)

    def wake(self) -> None:
        """End a ``wait``, which then reads the clock again."""
        with self._changed:
            self._changed.notify_all()

    def is_idle(self) -> bool:
        """Whether no key is ready, processed, or delayed for another reason than a failure."""
        with self._changed:
            delayed = self._delayed.keys() - self._failures.keys()
            return not (self._ready or self._processing or delayed)

    def shut_down(self) -> None:
        """Take no more keys, and end waits."""
        with self._changed:
            self._is_shut_down = True
            self._changed.notify_all()

    def _next_in_s(self) -> float:
        return max(0.0, self._times[0][0] - self._monotonic()) if self._times else float("inf")

    def _promote(self) -> None:
        """Queue the delayed keys whose time has come."""
        now_s = self._monotonic()
        while self._times and self._times[0][0] <= now_s:
            at_s, _, key = heapq.heappop(self._times)
            if self._delayed.get(key) == at_s:
                del self._delayed[key]
                if key in self._processing:
                    self._dirty.add(key)
                else:
                    self._ready[key] = None
