"""A clock that stands still until it is advanced."""

from __future__ import annotations

import threading


class FakeClock:
    """Stands still until ``advance``; ``wait`` advances it by the timeout."""

    def __init__(self, start_s: float = 1_700_000_000.0) -> None:
        self._now_s = start_s
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """See Clock."""
        with self._lock:
            return self._now_s

    def wall(self) -> float:
        """See Clock."""
        return self.monotonic()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._lock:
            self._now_s += seconds

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """See Clock."""
        if not event.is_set():
            self.advance(timeout_s)
        return event.is_set()
