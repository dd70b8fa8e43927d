"""Waits for conditions with a time limit. A wait that runs out raises `WaitError` with the last value seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

TIMEOUT_S = 90.0
"""Far above what anything takes, on a busy machine too: only a failure waits that long."""


class WaitError(AssertionError):
    """A condition was not met in time."""


def wait_until(
    what: str,
    condition: Callable[[], object],
    timeout_s: float = TIMEOUT_S,
    interval_s: float = 0.05,
) -> Any:
    """Call ``condition`` until it returns something true, and return that.

    A LookupError counts as not yet: objects get their fields one after the other.
    """
    ends_at = time.monotonic() + timeout_s
    while True:
        try:
            if found := condition():
                return found
            seen: object = found
        except LookupError as error:
            seen = error
        if time.monotonic() > ends_at:
            raise WaitError(f"not within {timeout_s:g} s: {what}; last seen: {seen!r}")
        time.sleep(interval_s)


def until(condition: Callable[[], object]) -> None:
    """`wait_until` where the condition's source line says enough."""
    wait_until("the condition", condition)


def wait_equal(
    what: str, observe: Callable[[], T], expected: T, timeout_s: float = TIMEOUT_S
) -> None:
    """Wait until ``observe`` returns ``expected``; the error has the value that it returned last."""
    seen: list[T] = []

    def is_equal() -> bool:
        seen[:] = [observe()]
        return seen[0] == expected

    try:
        wait_until(what, is_equal, timeout_s)
    except WaitError as error:
        raise WaitError(f"{what}: {seen} is not {expected!r} after {timeout_s:g} s") from error
