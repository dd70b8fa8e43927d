"""Pod events that say what a claim waits for while its prepare takes long: one Event for each pod and cause.

The kubelet reports it only when the call has failed, after 45 s, and repeats a failed call a minute later; so a prepare
keeps waiting and reports meanwhile. Called by ``transaction``; a thread writes from a bounded queue, and pauses while
the API server forbids it.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict

import msgspec

from nvdra_core.errors import ApiError, NvdraError
from nvdra_core.kube.resources import EVENTS
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.checkpoint.claim import ClaimRef
from nvdra_node.kube.permission import RETEST_S, Permission
from nvdra_node.kubeletplugin.claims.outbox import Outbox
from nvdra_node.kubeletplugin.claims.reader import ClaimApi
from nvdra_node.kubeletplugin.events import Event, EventApi, EventSource, JsonObject, to_json

REASON = "WaitingForDevice"
MIN_WAIT_S = 8.0
"""Shorter waits are normal: the nodes of a starting job wait for each other for some seconds."""
MIN_INTERVAL_S = 15.0
"""Between two events of a claim, of which the second has another cause."""
MAX_CLAIMS = 256
MAX_PODS = 8
WRITE_S = 10.0

_LOG = log.get(__name__)


class NoWaitEvents:
    """Writes no events."""

    def waiting(self, ref: ClaimRef, cause: str, waited_s: float) -> None:
        """See WaitEvents."""

    def done(self, ref: ClaimRef) -> None:
        """See WaitEvents."""


class _WaitEvent(msgspec.Struct, frozen=True):
    """What to write about a claim."""

    ref: ClaimRef
    cause: str
    at_s: float


class WaitEvents:
    """Queues and writes the events. ``app`` starts and stops ``outbox``."""

    def __init__(
        self, claims: ClaimApi, events: EventApi, source: EventSource, clock: Clock
    ) -> None:
        self._claims = claims
        self._events = events
        self._source = source
        self._clock = clock
        self._permission = Permission(clock)
        self._lock = threading.Lock()
        self._reported: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """Last cause and its monotonic time, by claim UID."""
        self.outbox = Outbox("wait-events", self._write, clock)

    @property
    def is_on(self) -> bool:
        """False while the API server forbids it."""
        return self._permission.is_granted

    def waiting(self, ref: ClaimRef, cause: str, waited_s: float) -> None:
        """A claim still waits. Returns at once; never raises."""
        if not self.is_on or waited_s < MIN_WAIT_S:
            return
        now_s = self._clock.monotonic()
        with self._lock:
            reported, at_s = self._reported.get(ref.uid, ("", -math.inf))
            if reported == cause or now_s - at_s < MIN_INTERVAL_S:
                return
            self._reported[ref.uid] = (cause, now_s)
            if len(self._reported) > MAX_CLAIMS:
                self._reported.popitem(last=False)
        self.outbox.put(ref.uid, _WaitEvent(ref, cause, self._clock.wall()))

    def done(self, ref: ClaimRef) -> None:
        """A claim waits no longer; a queued event of it is dropped."""
        self.outbox.discard(ref.uid)
        with self._lock:
            self._reported.pop(ref.uid, None)

    def _write(self, uid: str, event: _WaitEvent) -> float:
        """Write the events of one claim; never pauses."""
        limit = Deadline(WRITE_S, self._clock)
        try:
            claim = self._claims.get_claim(event.ref.namespace, event.ref.name, deadline=limit)
        except NvdraError as error:
            _failed(event, error)
            return 0.0
        try:
            for pod in pods_of(claim, uid):
                body = to_event(pod, event, self._source)
                self._events.create(EVENTS, body, deadline=limit)
                self._permission.succeeded()
        except ApiError as error:
            self._permission.failed(error)
            if self.is_on:
                _failed(event, error)
            else:
                _LOG.warning(
                    "API server forbids events of waiting claims; pausing", error, pause_s=RETEST_S
                )
        return 0.0


def _failed(event: _WaitEvent, error: NvdraError) -> None:
    _LOG.info("event of a waiting claim not written", v=2, claim=event.ref, error=error)


def pods_of(claim: JsonObject, uid: str) -> list[JsonObject]:
    """The pods that a claim of this UID is reserved for; none when it is another claim. Pure."""
    if claim.get("metadata", {}).get("uid") != uid:
        return []
    reserved = claim.get("status", {}).get("reservedFor") or ()
    pods = [one for one in reserved if not one.get("apiGroup") and one.get("resource") == "pods"]
    return pods[:MAX_PODS]


def to_event(pod: JsonObject, waiting: _WaitEvent, source: EventSource) -> JsonObject:
    """The Event of one pod. Pure."""
    event = Event(
        involved={
            "kind": "Pod",
            "namespace": waiting.ref.namespace,
            "name": pod["name"],
            "uid": pod["uid"],
        },
        type="Warning",
        reason=REASON,
        message=f"claim {waiting.ref.name} is not prepared yet: {waiting.cause}",
        at_s=waiting.at_s,
    )
    return to_json(event, source)
