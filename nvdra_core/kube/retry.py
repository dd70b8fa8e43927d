"""Which failed requests are repeated, and after what pause. Pure."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from nvdra_core.errors import ApiError
from nvdra_core.kube.errors import ClosedError, TransportError

BUSY_STATUSES = frozenset({429, 503})
BROKEN_STATUSES = frozenset({500, 502, 504})
RETRY_AFTER_LIMIT_S = 300.0


def jitter() -> float:
    """A random number in [0, 1)."""
    return int.from_bytes(os.urandom(2), "little") / 65536


class Backoff(msgspec.Struct, frozen=True):
    """Exponential pauses: between half of and all of ``first_s`` times two to the attempt, at most ``limit_s``."""

    first_s: float = 0.1
    limit_s: float = 10.0
    random: Callable[[], float] = jitter

    def pause_s(self, attempt: int) -> float:
        """The pause after the attempt of that number, counted from 0."""
        full_s = min(self.limit_s, self.first_s * float(1 << min(attempt, 30)))
        return full_s * (0.5 + 0.5 * self.random())


def is_retryable(error: ApiError, *, is_idempotent: bool) -> bool:
    """Whether sending the same request again can help and cannot do harm.

    409 never is: the caller must read the object again. 429 and 503 mean that nothing was done, as does a
    Retry-After; other 5xx and lost answers are retried only when doing it twice is the same as doing it once.
    """
    if isinstance(error, ClosedError):
        return False
    if isinstance(error, TransportError):
        return error.unsent or is_idempotent
    if error.status in BUSY_STATUSES:
        return True
    return error.status in BROKEN_STATUSES and (is_idempotent or error.retry_after_s is not None)


def parse_retry_after(text: str) -> float | None:
    """Seconds of a Retry-After header; None when absent or a date, which Kubernetes never sends."""
    text = text.strip()
    return min(float(text), RETRY_AFTER_LIMIT_S) if text.isascii() and text.isdigit() else None
