"""When to publish next: at once when something changed, never in a hot loop, and never never. Used by ``publisher``.

In: what happened. Out: the seconds until the next attempt. Failures are retried with growing pauses; what others do to
our slices is answered after a moment (a wipe comes in pieces), with growing pauses while they keep doing it; everything
is looked at again from time to time. Thread safe.
"""

from __future__ import annotations

import threading

from nvdra_core.kube.retry import Backoff
from nvdra_core.runtime.clock import Clock

SETTLE_S = 1.0
SETTLE_LIMIT_S = 10.0
CALM_S = 60.0
"""Without foreign changes for so long, the next one is answered quickly again."""

WRITE_INTERVAL_S = 0.5
"""Between writes that our own changes cause."""

AGAIN_S = 30.0
"""After a registration: the kubelet's wipe may have been delayed."""

AUDIT_S = 300.0
RETRY_LIMIT_S = 15.0
NEVER_S = float("inf")


class Pace:
    """See the module."""

    def __init__(self, clock: Clock, backoff: Backoff | None = None) -> None:
        self._clock = clock
        self._backoff = backoff or Backoff(first_s=0.25, limit_s=RETRY_LIMIT_S)
        self._lock = threading.Lock()
        self._change_at_s = NEVER_S
        self._check_at_s = clock.monotonic()
        self._again_at_s = NEVER_S
        self._audit_at_s = NEVER_S
        self._not_before_s = 0.0
        self._failures = 0
        self._meddlings = 0
        self._meddled_at_s = -CALM_S

    def due_in_s(self) -> float:
        """Seconds until the next attempt."""
        with self._lock:
            checks = (self._check_at_s, self._again_at_s, self._audit_at_s)
            at_s = max(min(self._change_at_s, *checks), self._not_before_s)
            return max(0.0, at_s - self._clock.monotonic())

    def begin(self) -> bool:
        """An attempt begins; True when what is stored must be looked at, and not only our own changes."""
        with self._lock:
            now_s = self._clock.monotonic()
            self._change_at_s = NEVER_S
            is_check = min(self._check_at_s, self._again_at_s, self._audit_at_s) <= now_s
            if is_check:
                self._check_at_s = NEVER_S
                self._audit_at_s = now_s + AUDIT_S * (0.8 + 0.4 * self._backoff.random())
                if self._again_at_s <= now_s:
                    self._again_at_s = NEVER_S
            return is_check

    def changed(self) -> None:
        """Our pool may have changed."""
        with self._lock:
            self._change_at_s = min(self._change_at_s, self._clock.monotonic())

    def registered(self) -> None:
        """The kubelet took us: it may have wiped our slices, and the API server is likely back."""
        with self._lock:
            now_s = self._clock.monotonic()
            self._check_at_s = self._not_before_s = now_s
            self._again_at_s = now_s + AGAIN_S
            self._failures = 0
            self._meddlings = 0  # a wipe that follows is part of the kubelet's start

    def meddled(self) -> None:
        """Somebody else changed or deleted our slices, or we may have missed that."""
        with self._lock:
            now_s = self._clock.monotonic()
            if now_s - self._meddled_at_s >= CALM_S:
                self._meddlings = 0
            self._meddled_at_s = now_s
            if self._check_at_s == NEVER_S:
                pause_s = SETTLE_S * float(1 << min(self._meddlings, 10))
                self._check_at_s = now_s + min(SETTLE_LIMIT_S, pause_s)
                self._meddlings += 1

    def succeeded(self, *, wrote: bool) -> None:
        """The attempt ended well."""
        with self._lock:
            self._failures = 0
            if wrote:
                self._not_before_s = self._clock.monotonic() + WRITE_INTERVAL_S

    def failed(self, retry_after_s: float | None = None) -> None:
        """The attempt failed; it is repeated, and not before the server said."""
        with self._lock:
            pause_s = max(self._backoff.pause_s(self._failures), retry_after_s or 0.0)
            self._failures += 1
            self._not_before_s = self._clock.monotonic() + pause_s
            self._check_at_s = min(self._check_at_s, self._not_before_s)
