"""Taints of devices from sources other than the scan: failed resets, hardware events. Thread safe.

A taint is set for a hold. On ``gpu:<uuid>`` it applies to all devices of that GPU, on ``gpu:<uuid>/<part>`` to the
devices that occupy the part.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import msgspec


class Taint(msgspec.Struct, frozen=True, kw_only=True):
    """A device taint (resource.k8s.io/v1 DeviceTaint); the API server adds the time."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"
    message: str = ""
    """Cause and remedy, for health reports."""

    def to_json(self) -> dict[str, str]:
        """The API's form, without an empty value."""
        value = {"value": self.value} if self.value else {}
        return {"key": self.key, **value, "effect": self.effect}


class TaintStore:
    """Taints by source and hold."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taints: dict[tuple[str, str], tuple[Taint, ...]] = {}
        self._subscribers: list[Callable[[], None]] = []
        self.generation = 0
        """Increases with each change."""

    def set(self, source: str, hold: str, taints: Iterable[Taint]) -> None:
        """Replace the taints of a source for a hold; none: remove them."""
        new = tuple(taints)
        with self._lock:
            if self._taints.get((source, hold), ()) == new:
                return
            self._taints[source, hold] = new
            if not new:
                del self._taints[source, hold]
            self.generation += 1
        for changed in self._subscribers:
            changed()

    def of(self, holds: Iterable[str]) -> tuple[Taint, ...]:
        """The taints of a device with these holds, by key."""
        wanted = set(holds)
        with self._lock:
            found = [
                taint
                for (_, hold), taints in self._taints.items()
                if hold in wanted
                for taint in taints
            ]
        return tuple(sorted(found, key=lambda taint: (taint.key, taint.effect)))

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` (cheap, from any thread) after each change."""
        self._subscribers.append(changed)
