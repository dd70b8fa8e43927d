"""Events that were written lately: the same one again is counted, not made anew. Used by ``writer``.

The same: of the same object, type and reason, within SAME_S of the last. A node that comes and goes all day makes
one event of each kind, with a count and the last message. This is memory of one process; the next begins anew.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from nvdra_cluster.decide.writes import EVENTS, Create, Merge, Write
from nvdra_core.kube.resources import JsonObject

SAME_S = 600.0
LIMIT = 4096
"""Events that are remembered, the last ones."""

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Told:
    name: str
    count: int
    at_s: float


class EventCorrelator:
    """See the module. Safe for several threads."""

    def __init__(self) -> None:
        self._told: OrderedDict[_Key, _Told] = OrderedDict()
        self._lock = threading.Lock()

    def counted(self, write: Write, now_s: float) -> Write:
        """``write``; in place of an event that was told lately one that counts it."""
        if not isinstance(write, Create) or write.resource != EVENTS:
            return write
        with self._lock:
            told = self._told.get(_key(write.body))
        if told is None or now_s - told.at_s >= SAME_S:
            return write
        again = {key: write.body[key] for key in ("message", "lastTimestamp")}
        patch = {"metadata": {}, "count": told.count + 1, **again}
        return Merge(EVENTS, write.key[1], told.name, patch)

    def note(self, write: Write, stored: JsonObject | None, now_s: float) -> None:
        """What came of telling ``write`` (as it was decided): the event as it is now, or None when there is none."""
        if not isinstance(write, Create) or write.resource != EVENTS:
            return
        key = _key(write.body)
        with self._lock:
            self._told.pop(key, None)
            if stored is not None:
                name, count = str(stored["metadata"]["name"]), int(stored.get("count") or 1)
                self._told[key] = _Told(name, count, now_s)
            while len(self._told) > LIMIT:
                self._told.popitem(last=False)


def _key(body: JsonObject) -> _Key:
    return str(body["involvedObject"]["uid"]), str(body["type"]), str(body["reason"])
