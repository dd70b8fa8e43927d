"""Correlates events like client-go's EventCorrelator: a repeated event raises the count of the earlier one.

Repeated means: same object, type and reason within REPEAT_S of the last. A node that joins and leaves all day makes one
event of each kind. Kept in memory; a new process starts with new events. Used by ``writer``.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from nvdra_cluster.decide.writes import EVENTS, Create, Merge, Write
from nvdra_core.kube.resources import JsonObject

REPEAT_S = 600.0
LIMIT = 4096
"""Events that are remembered, the latest ones."""

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Sent:
    name: str
    count: int
    at_s: float


class EventCorrelator:
    """See the module. Safe for several threads."""

    def __init__(self) -> None:
        self._sent: OrderedDict[_Key, _Sent] = OrderedDict()
        self._lock = threading.Lock()

    def correlate(self, write: Write, now_s: float) -> Write:
        """``write``, or for a repeated event the patch that counts it."""
        if not isinstance(write, Create) or write.resource != EVENTS:
            return write
        with self._lock:
            sent = self._sent.get(_key(write.body))
        if sent is None or now_s - sent.at_s >= REPEAT_S:
            return write
        changed = {key: write.body[key] for key in ("message", "lastTimestamp")}
        patch = {"metadata": {}, "count": sent.count + 1, **changed}
        return Merge(EVENTS, write.key[1], sent.name, patch)

    def record(self, write: Write, stored: JsonObject | None, now_s: float) -> None:
        """Remember the result of ``write`` (as it was decided): the event as stored, or None when it does not exist."""
        if not isinstance(write, Create) or write.resource != EVENTS:
            return
        key = _key(write.body)
        with self._lock:
            self._sent.pop(key, None)
            if stored is not None:
                name, count = str(stored["metadata"]["name"]), int(stored.get("count") or 1)
                self._sent[key] = _Sent(name, count, now_s)
            while len(self._sent) > LIMIT:
                self._sent.popitem(last=False)


def _key(body: JsonObject) -> _Key:
    return str(body["involvedObject"]["uid"]), str(body["type"]), str(body["reason"])
