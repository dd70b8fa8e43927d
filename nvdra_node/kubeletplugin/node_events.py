"""Events on this node's Node object: that no claim can be prepared here, why, and when that has ended.

Follows ``Readiness``; one worker writes. An event is written on each change and repeated every half hour while a cause
lasts, as API servers keep events for an hour. Failed writes are repeated; while forbidden, writing pauses.
"""

from __future__ import annotations

import math
import threading

from nvdra_core.errors import ApiError
from nvdra_core.kube.resources import EVENTS
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.kube.permission import Permission
from nvdra_node.kubeletplugin.events import Event, EventApi, EventSource, JsonObject, to_json
from nvdra_node.kubeletplugin.readiness import Readiness

BLOCKED = "PrepareBlocked"
RESTORED = "PrepareRestored"
REPEAT_S = 1800.0
RETRY_S = 30.0
WRITE_S = 10.0
POLL_S = 5.0
"""Between two checks: changes within it make one event."""
_LOG = log.get(__name__)


class NodeEvents:
    """Writes the events. A worker calls ``run``; tests call ``reconcile``."""

    def __init__(
        self, readiness: Readiness, events: EventApi, source: EventSource, clock: Clock
    ) -> None:
        self._readiness = readiness
        self._events = events
        self._source = source
        self._clock = clock
        self._permission = Permission(clock)
        self._written: tuple[str, ...] = ()
        self._write_at_s = math.inf
        """When the same causes are due again."""
        self._retry_at_s = 0.0

    def run(self, stopping: threading.Event) -> None:
        """Write events until the service stops."""
        while not self._clock.wait(stopping, POLL_S):
            self.reconcile()

    def reconcile(self) -> None:
        """Write what is due. Never raises ApiError."""
        causes, now_s = self._readiness.causes, self._clock.monotonic()
        is_due = causes != self._written or (bool(causes) and now_s >= self._write_at_s)
        if not is_due or now_s < self._retry_at_s or not self._permission.is_granted:
            return
        try:
            body = to_event(self._source, causes, self._clock.wall())
            self._events.create(EVENTS, body, deadline=Deadline(WRITE_S, self._clock))
        except ApiError as error:
            self._permission.failed(error)
            self._retry_at_s = now_s + RETRY_S
            _LOG.info("node event not written", v=2, error=str(error))
            return
        self._permission.succeeded()
        self._written, self._write_at_s = causes, now_s + REPEAT_S


def to_event(source: EventSource, causes: tuple[str, ...], at_s: float) -> JsonObject:
    """The Event; ``causes`` empty: the node can prepare claims again. Pure."""
    text = f"no claim can be prepared, devices are withheld: {'; '.join(causes)}"
    event = Event(
        # The kubelet and kubectl describe node use the name of a Node as its UID in events.
        involved={"kind": "Node", "name": source.node, "uid": source.node},
        type="Warning" if causes else "Normal",
        reason=BLOCKED if causes else RESTORED,
        message=text if causes else "claims can be prepared again",
        at_s=at_s,
    )
    return to_json(event, source)
