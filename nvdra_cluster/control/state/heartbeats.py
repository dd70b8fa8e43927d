"""Which nodes have fallen silent: heartbeats as they are seen here, by this machine's clock.

A node that takes part in a domain writes its status every ten seconds. One whose text has not changed
for SILENCE_S is suspected; ``loop`` then asks the API server once, so that a watch of ours that hangs
is not taken for the death of nodes. Together with that a loss is noticed within 40 s. A node's own clock counts only
at first sight: a process that has just started waits less for a heartbeat that was old before, and never so little
that a node whose clock is behind is called lost.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterable
from dataclasses import dataclass

SILENCE_S = 33.0
"""Three heartbeats, and a little for the way."""
GRACE_S = 15.0
"""For one more heartbeat of a node that is silent by the wall clock when first seen: its clock may be behind."""


@dataclass(slots=True)
class _Beat:
    text: str
    seen_s: float


class HeartbeatTracker:
    """See the module. Not safe for several threads."""

    def __init__(self) -> None:
        self._beats: dict[str, _Beat] = {}

    def note(self, name: str, text: str, now_s: float, wall_s: float) -> None:
        """The heartbeat that the node's status has now."""
        known = self._beats.get(name)
        if known is None:
            written_s = parse_time(text)
            age_s = wall_s - written_s if written_s is not None else 0.0
            self._beats[name] = _Beat(text, now_s - min(max(age_s, 0.0), SILENCE_S - GRACE_S))
        elif known.text != text:
            self._beats[name] = _Beat(text, now_s)

    def begin(self, name: str, now_s: float) -> None:
        """The node has its first domain, and was asked for few heartbeats before: its time begins now."""
        if name in self._beats:
            self._beats[name].seen_s = now_s

    def forget(self, name: str) -> None:
        """The node has no FabricNode any more."""
        self._beats.pop(name, None)

    def silent(self, names: Iterable[str], now_s: float) -> list[str]:
        """Those of ``names`` that have been silent for too long; one never heard of is not."""
        return [
            name
            for name in names
            if (beat := self._beats.get(name)) is not None and now_s - beat.seen_s >= SILENCE_S
        ]


def parse_time(text: str) -> float | None:
    """Seconds since the epoch of an RFC 3339 time in UTC; None when it is none."""
    try:
        return float(calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return None


def format_time(wall_s: float) -> str:
    """RFC 3339 in UTC, in whole seconds, as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall_s))
