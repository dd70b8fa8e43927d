"""Time as a dependency: monotonic seconds, wall-clock seconds and deadlines."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from nvdra_core.errors import DeadlineError


class Clock(Protocol):
    """The only source of time below ``cli``."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back."""

    def wall(self) -> float:
        """Seconds since the epoch."""

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait until ``event`` is set, at most ``timeout_s``; returns whether it is set."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """See Clock."""
        return time.monotonic()

    def wall(self) -> float:
        """See Clock."""
        return time.time()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """See Clock."""
        return event.wait(timeout_s)


class Deadline:
    """The time by which an operation must end; passed to everything that waits."""

    __slots__ = ("_at_s", "_clock", "_timeout_s")

    def __init__(self, timeout_s: float, clock: Clock) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._at_s = clock.monotonic() + timeout_s

    def remaining_s(self) -> float:
        """Seconds left; never negative."""
        return max(0.0, self._at_s - self._clock.monotonic())

    def within(self, timeout_s: float) -> Deadline:
        """The deadline of a step that may take at most ``timeout_s``."""
        return Deadline(min(timeout_s, self.remaining_s()), self._clock)

    def check(self, what: str) -> None:
        """Raise DeadlineError after the deadline; ``what``: what was waited for."""
        if self.remaining_s() <= 0.0:
            raise DeadlineError(f"{what}: not done within {self._timeout_s:g} s; it is retried")
