"""Tells the pods of a claim that takes long what it waits for: one Event for each pod and cause.

The kubelet's own event says it only when the call has failed, after 45 s, and a call that failed is tried again a
minute later; so a prepare goes on waiting, and says meanwhile for what. Called by ``transaction``; written by a thread
of its own, from a bounded queue, and left for a while when the API server forbids it: nothing depends on it.
"""

from __future__ import annotations

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
LONG_S = 8.0
"""What is ready sooner needs no words: nodes of a job that starts wait for each other for some seconds."""
AGAIN_S = 15.0
"""Between two events of a claim, of which the second has another cause."""
MAX_CLAIMS = 256
MAX_PODS = 8
WRITE_S = 10.0
JOIN_S = 2.0
MESSAGE_LIMIT = 1000

_log = log.get(__name__)


class EventApi(Protocol):
    """The part of ``nvdra_core.kube.client.Client`` that is needed."""

    def create(
        self, resource: Resource, body: JsonObject, *, deadline: Deadline | None = None
    ) -> JsonObject:
        """Create an object. Raises ApiError."""


class NoWaitEvents:
    """Tells nobody."""

    def waits(self, ref: ClaimRef, cause: str, waited_s: float) -> None:
        """See WaitEvents."""

    def done(self, ref: ClaimRef) -> None:
        """See WaitEvents."""


class _Word(msgspec.Struct, frozen=True):
    """What to say of a claim."""

    ref: ClaimRef
    cause: str
    at_s: float


class EventSource(msgspec.Struct, frozen=True):
    """Who writes the events. The chart's policies refuse those in another node's name."""

    component: str
    node: str


class WaitEvents:
    """See the module. Built without starting; ``start`` and ``stop`` by the composition root."""

    def __init__(
        self, claims: ClaimApi, events: EventApi, source: EventSource, clock: Clock
    ) -> None:
        self._claims = claims
        self._events = events
        self._source = source
        self._clock = clock
        self._lock = threading.Lock()
        self._queue: OrderedDict[str, _Word] = OrderedDict()
        self._told: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._permission = Permission(clock)

    @property
    def is_on(self) -> bool:
        """False while the API server forbids it."""
        return self._permission.is_granted

    def waits(self, ref: ClaimRef, cause: str, waited_s: float) -> None:
        """A claim still waits. Returns at once; never raises."""
        now_s = self._clock.monotonic()
        with self._lock:
            told, at_s = self._told.get(ref.uid, ("", float("-inf")))
            if not self.is_on or waited_s < LONG_S or told == cause or now_s - at_s < AGAIN_S:
                return
            self._told[ref.uid] = (cause, now_s)
            self._queue[ref.uid] = _Word(ref, cause, self._clock.wall())
            for known in (self._told, self._queue):
                while len(known) > MAX_CLAIMS:
                    known.popitem(last=False)
        self._wake.set()

    def done(self, ref: ClaimRef) -> None:
        """A claim waits no more; what is still queued of it is not said."""
        with self._lock:
            self._queue.pop(ref.uid, None)
            self._told.pop(ref.uid, None)

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="claim-waiting", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; what is queued is not written."""
        self._stopped.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)

    def write_next(self) -> None:
        """Write the events of one claim. For the thread, and for tests. Never raises NvdraError."""
        with self._lock:
            if not self._queue:
                return
            word = self._queue.popitem(last=False)[1]
        limit = Deadline(WRITE_S, self._clock)
        try:
            claim = self._claims.get_claim(word.ref.namespace, word.ref.name, deadline=limit)
        except NvdraError as error:
            _failed(word, error)
            return
        try:
            for pod in pods_of(claim, word.ref.uid):
                body = to_event(pod, word.ref, word.cause, self._source, word.at_s)
                self._events.create(EVENTS, body, deadline=limit)
                self._permission.succeeded()
        except ApiError as error:
            self._permission.failed(error)
            if self.is_on:
                _failed(word, error)
            else:
                _log.warning("events of waiting claims rest for a while", error, pause_s=RETEST_S)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait()
            self._wake.clear()
            while self._queue and not self._stopped.is_set():
                self.write_next()


def _failed(word: _Word, error: NvdraError) -> None:
    _log.info("event of a waiting claim not written", v=2, claim=word.ref, error=error)


def pods_of(claim: JsonObject, uid: str) -> list[JsonObject]:
    """The pods that a claim of this UID is reserved for, as references; none when it is another claim. Pure."""
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
