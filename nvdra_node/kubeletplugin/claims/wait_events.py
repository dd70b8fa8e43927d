"""Pod events that say what a claim waits for while its prepare takes long: one Event for each pod and cause.

The kubelet reports it only when the call has failed, after 45 s, and repeats a failed call a minute later; so a prepare
keeps waiting and reports meanwhile. Called by ``transaction``; a thread writes from a bounded queue, and pauses while
the API server forbids it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from typing import Any, Protocol

import msgspec

from nvdra_core.errors import ApiError, NvdraError
from nvdra_core.kube.permission import RETEST_S, Permission
from nvdra_core.kube.resources import EVENTS, Resource
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.checkpoint.claim import ClaimRef
from nvdra_node.kubeletplugin.claims.reader import ClaimApi

JsonObject = dict[str, Any]
REASON = "WaitingForDevice"
MIN_WAIT_S = 8.0
"""Shorter waits are normal: the nodes of a starting job wait for each other for some seconds."""
MIN_INTERVAL_S = 15.0
"""Between two events of a claim, of which the second has another cause."""
MAX_CLAIMS = 256
MAX_PODS = 8
WRITE_S = 10.0
JOIN_S = 2.0
MESSAGE_LIMIT = 1000

_LOG = log.get(__name__)


class EventApi(Protocol):
    """The part of ``nvdra_core.kube.client.Client`` that is needed."""

    def create(
        self, resource: Resource, body: JsonObject, *, deadline: Deadline | None = None
    ) -> JsonObject:
        """Create an object. Raises ApiError."""


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


class EventSource(msgspec.Struct, frozen=True):
    """Who writes the events. The chart's policies refuse those in another node's name."""

    component: str
    node: str


class WaitEvents:
    """Queues and writes the events. ``start`` and ``stop`` are called by ``app``."""

    def __init__(
        self, claims: ClaimApi, events: EventApi, source: EventSource, clock: Clock
    ) -> None:
        self._claims = claims
        self._events = events
        self._source = source
        self._clock = clock
        self._lock = threading.Lock()
        self._queue: OrderedDict[str, _WaitEvent] = OrderedDict()
        self._reported: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._permission = Permission(clock)

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
            self._queue[ref.uid] = _WaitEvent(ref, cause, self._clock.wall())
            for known in (self._reported, self._queue):
                while len(known) > MAX_CLAIMS:
                    known.popitem(last=False)
        self._wake.set()

    def done(self, ref: ClaimRef) -> None:
        """A claim waits no longer; a queued event of it is dropped."""
        with self._lock:
            self._queue.pop(ref.uid, None)
            self._reported.pop(ref.uid, None)

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="wait-events", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; what is queued is not written."""
        self._stopped.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)

    def write_next(self) -> None:
        """Write the events of one claim. For the thread, and for tests. Never raises NvdraError."""
        with self._lock:
            if not self._queue:
                return
            event = self._queue.popitem(last=False)[1]
        limit = Deadline(WRITE_S, self._clock)
        try:
            claim = self._claims.get_claim(event.ref.namespace, event.ref.name, deadline=limit)
        except NvdraError as error:
            _failed(event, error)
            return
        try:
            for pod in pods_of(claim, event.ref.uid):
                body = to_event(pod, event.ref, event.cause, self._source, event.at_s)
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

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait()
            self._wake.clear()
            while self._queue and not self._stopped.is_set():
                self.write_next()


def _failed(event: _WaitEvent, error: NvdraError) -> None:
    _LOG.info("event of a waiting claim not written", v=2, claim=event.ref, error=error)


def pods_of(claim: JsonObject, uid: str) -> list[JsonObject]:
    """The pods that a claim of this UID is reserved for; none when it is another claim. Pure."""
    if claim.get("metadata", {}).get("uid") != uid:
        return []
    reserved = claim.get("status", {}).get("reservedFor") or ()
    pods = [one for one in reserved if not one.get("apiGroup") and one.get("resource") == "pods"]
    return pods[:MAX_PODS]


def to_event(
    pod: JsonObject, ref: ClaimRef, cause: str, source: EventSource, at_s: float
) -> JsonObject:
    """The Event of one pod. Pure."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))
    message = f"claim {ref.name} is not prepared yet: {cause}"[:MESSAGE_LIMIT]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{pod['name'][:200]}.{int(at_s * 1e9):x}",
            "namespace": ref.namespace,
        },
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": ref.namespace,
            "name": pod["name"],
            "uid": pod["uid"],
        },
        "type": "Warning",
        "reason": REASON,
        "message": message,
        "source": {"component": source.component, "host": source.node},
        "reportingComponent": source.component,
        "reportingInstance": source.node,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
