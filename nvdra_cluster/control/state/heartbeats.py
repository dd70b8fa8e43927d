"""Tracks the heartbeats of nodes by this machine's clock, to find nodes that stopped reporting.

A node with a domain writes its status every 10 s. One whose heartbeat has not changed for SILENCE_S is a suspect;
``node_loss`` then reads it from the API, so a stuck watch is not taken for lost nodes. A loss is noticed within 40 s.
The node's own clock counts at first sight only: an old heartbeat shortens the wait, but never below GRACE_S.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterable
from dataclasses import dataclass

SILENCE_S = 33.0
"""Three heartbeats, and 3 s of latency."""
GRACE_S = 15.0
"""Minimum wait for a node first seen with an old heartbeat: its clock may be behind."""


@dataclass(slots=True)
class _Beat:
    text: str
    seen_s: float


class HeartbeatTracker:
    """See the module. Not safe for several threads."""

    def __init__(self) -> None:
        self._beats: dict[str, _Beat] = {}

    def observe(self, name: str, text: str, now_s: float, wall_s: float) -> None:
        """Record the heartbeat in the node's status."""
        known = self._beats.get(name)
        if known is None:
            written_s = parse_time(text)
            age_s = wall_s - written_s if written_s is not None else 0.0
            self._beats[name] = _Beat(text, now_s - min(max(age_s, 0.0), SILENCE_S - GRACE_S))
        elif known.text != text:
            self._beats[name] = _Beat(text, now_s)

    def restart(self, name: str, now_s: float) -> None:
        """Count from now: the node was given its first domain, and sent heartbeats rarely before."""
        if name in self._beats:
            self._beats[name].seen_s = now_s

    def forget(self, name: str) -> None:
        """The FabricNode was deleted."""
        self._beats.pop(name, None)

    def silent(self, names: Iterable[str], now_s: float) -> list[str]:
        """Those of ``names`` without a heartbeat for SILENCE_S; unknown nodes are not silent."""
        return [
            name
            for name in names
            if (beat := self._beats.get(name)) is not None and now_s - beat.seen_s >= SILENCE_S
        ]


def parse_time(text: str) -> float | None:
    """Seconds since the epoch of an RFC 3339 time in UTC; None for other text."""
    try:
        return float(calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return None


def format_time(wall_s: float) -> str:
    """RFC 3339 in UTC, in whole seconds, as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall_s))
