"""Schedules publishing of ResourceSlices: immediately on a change of the pool, with backoff after failures, and a
periodic audit of what is stored.

Foreign changes of the slices are corrected after a delay (a wipe comes in several deletions) that doubles while they
go on. Thread safe. Used by ``publisher``.
"""

from __future__ import annotations

import math
import threading

from nvdra_core.kube.retry import Backoff
from nvdra_core.runtime.clock import Clock

FOREIGN_CHANGE_DELAY_S = 1.0
FOREIGN_CHANGE_DELAY_LIMIT_S = 10.0
FOREIGN_CHANGE_RESET_S = 60.0
"""After so long without a foreign change, the delay starts at FOREIGN_CHANGE_DELAY_S again."""

MIN_INTERVAL_S = 0.5
"""Between writes that changes of the pool cause."""

POST_REGISTRATION_AUDIT_S = 30.0
"""The kubelet deletes a driver's slices at its start, possibly delayed until after the registration."""

AUDIT_S = 300.0
RETRY_LIMIT_S = 15.0


class PublishSchedule:
    """See the module."""

    def __init__(self, clock: Clock, backoff: Backoff | None = None) -> None:
        self._clock = clock
        self._backoff = backoff or Backoff(first_s=0.25, limit_s=RETRY_LIMIT_S)
        self._lock = threading.Lock()
        self._publish_at = math.inf
        self._audit_at = clock.monotonic()
        self._second_audit_at = math.inf
        """After a registration."""
        self._periodic_audit_at = math.inf
        self._not_before = 0.0
        self._failures = 0
        self._foreign_changes = 0
        self._foreign_change_at = -math.inf

    def due_in_s(self) -> float:
        """Seconds until the next attempt."""
        with self._lock:
            at = max(min(self._publish_at, self._next_audit()), self._not_before)
            return max(0.0, at - self._clock.monotonic())

    def begin(self) -> bool:
        """Begin an attempt. True: an audit, which compares with the API server even if the pool is unchanged."""
        with self._lock:
            now = self._clock.monotonic()
            self._publish_at = math.inf
            is_audit = self._next_audit() <= now
            if is_audit:
                self._audit_at = math.inf
                self._periodic_audit_at = now + AUDIT_S * (0.8 + 0.4 * self._backoff.random())
                if self._second_audit_at <= now:
                    self._second_audit_at = math.inf
            return is_audit

    def changed(self) -> None:
        """The pool may have changed."""
        with self._lock:
            self._publish_at = min(self._publish_at, self._clock.monotonic())

    def registered(self) -> None:
        """The kubelet registered the plugin: audit now and once more later, and reset the backoff."""
        with self._lock:
            now = self._clock.monotonic()
            self._audit_at = self._not_before = now
            self._second_audit_at = now + POST_REGISTRATION_AUDIT_S
            self._failures = 0
            self._foreign_changes = 0  # a wipe that follows is part of the kubelet's start

    def changed_externally(self) -> None:
        """Another client changed or deleted a slice, or events may have been missed."""
        with self._lock:
            now = self._clock.monotonic()
            if now - self._foreign_change_at >= FOREIGN_CHANGE_RESET_S:
                self._foreign_changes = 0
            self._foreign_change_at = now
            if self._audit_at == math.inf:
                delay_s = FOREIGN_CHANGE_DELAY_S * float(1 << min(self._foreign_changes, 10))
                self._audit_at = now + min(FOREIGN_CHANGE_DELAY_LIMIT_S, delay_s)
                self._foreign_changes += 1

    def succeeded(self, *, wrote: bool) -> None:
        """The attempt succeeded."""
        with self._lock:
            self._failures = 0
            if wrote:
                self._not_before = self._clock.monotonic() + MIN_INTERVAL_S

    def failed(self, retry_after_s: float | None = None) -> None:
        """The attempt failed: audit after the backoff, and not before the server's Retry-After."""
        with self._lock:
            pause_s = max(self._backoff.pause_s(self._failures), retry_after_s or 0.0)
            self._failures += 1
            self._not_before = self._clock.monotonic() + pause_s
            self._audit_at = min(self._audit_at, self._not_before)

    def _next_audit(self) -> float:
        return min(self._audit_at, self._second_audit_at, self._periodic_audit_at)
