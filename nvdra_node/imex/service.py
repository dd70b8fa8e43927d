"""gRPC service of the supervisor (``proto/supervisor_v1.proto``) for the compute domain plugin. Built by ``app``.

Only root can open the socket. A Join call waits at most ``MAX_WAIT_S``: the plugin calls again, and releases its locks
in between, so that an unprepare of the claim can run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.imex.model import Holder
from nvdra_node.imex.replies import JoinReply, Snapshot
from nvdra_node.imex.supervisor import Supervisor
from nvdra_node.rpc.messages import supervisor_v1_pb2 as pb
from nvdra_node.rpc.messages import supervisor_v1_pb2_grpc as pb_grpc

MAX_WAIT_S = 20.0
MAX_WATCHES = 4
WATCH_POLL_S = 5.0


class SupervisorService:
    """See the module."""

    def __init__(
        self, supervisor: Supervisor, channel_count: Callable[[], int], clock: Clock
    ) -> None:
        self._supervisor = supervisor
        self._channel_count = channel_count
        self._clock = clock
        self._condition = threading.Condition()
        self._version = 0
        self._watches = threading.BoundedSemaphore(MAX_WATCHES)
        self._is_stopping = False
        supervisor.subscribe(self._changed)

    def add_to(self, server: Any) -> None:
        """Add the service to a gRPC server."""
        pb_grpc.add_SupervisorServicer_to_server(self, server)

    def stop(self) -> None:
        """End all watches and waiting joins."""
        self._supervisor.claims.stop()
        with self._condition:
            self._is_stopping = True
            self._condition.notify_all()

    def Join(self, request: Any, context: Any) -> Any:
        """See the proto."""
        claim = Holder(
            self._clock.wall(),
            request.domain_uid,
            request.claim.namespace,
            request.claim.name,
            request.claim.uid,
        )
        if not context.is_active():
            # The caller is gone and may have released the claim since: no Leave would follow.
            return pb.JoinResponse(outcome=pb.OUTCOME_WAIT)
        wait_s = min(request.wait_ms / 1000, MAX_WAIT_S)
        reply = self._supervisor.claims.join(claim, Deadline(wait_s, self._clock))
        return _join_response(reply, self._channel_count())

    def Leave(self, request: Any, context: Any) -> Any:
        """See the proto."""
        self._supervisor.claims.leave(request.claim_uid)
        return pb.LeaveResponse()

    def Sync(self, request: Any, context: Any) -> Any:
        """See the proto."""
        now_s = self._clock.wall()
        self._supervisor.claims.sync(
            Holder(
                now_s, held.domain_uid, held.claim.namespace, held.claim.name, held.claim.uid,
                held.prepared,
            )
            for held in request.held
        )  # fmt: skip
        return pb.SyncResponse()

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:
        """See the proto."""
        if not self._watches.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watches")
        try:
            sent = None
            while context.is_active() and not self._is_stopping:
                with self._condition:
                    version = self._version
                state = node_state(self._supervisor.snapshot, self._channel_count())
                if state != sent:
                    sent = state
                    yield state
                with self._condition:
                    if self._version == version and not self._is_stopping:
                        self._condition.wait(WATCH_POLL_S)
        finally:
            self._watches.release()

    def _changed(self) -> None:
        with self._condition:
            self._version += 1
            self._condition.notify_all()


def _join_response(reply: JoinReply, channel_count: int) -> Any:
    state, domain = reply.readiness, reply.domain
    response = pb.JoinResponse(
        outcome=pb.OUTCOME_READY if state.is_ready else pb.OUTCOME_WAIT,
        reason=state.reason,
        message=state.message,
        has_fabric=reply.has_fabric,
        channel_count=channel_count,
    )
    if domain is not None:
        response.channel = domain.channel
        response.isolation = domain.isolation.value
    if reply.refused:
        response.outcome, response.message = pb.OUTCOME_REFUSED, reply.refused
    return response


def node_state(snapshot: Snapshot, channel_count: int) -> Any:
    """Snapshot as a message for watchers."""
    situation = snapshot.situation
    state = pb.NodeState(
        fabric_state=situation.fabric.state.value,
        fabric_message=situation.fabric.message,
        cluster_uuid=situation.fabric.cluster_uuid,
        clique_id=situation.fabric.clique_id,
        channel_count=channel_count,
        imex_state=situation.imex.value,
    )
    known = dict(snapshot.domains)
    for domain in situation.spec.domains if situation.spec is not None else ():
        message = state.domains.add(uid=domain.uid, isolation=domain.isolation.value)
        if (readiness := known.get(domain.uid)) is not None:
            message.ready = readiness.is_ready
            message.reason, message.message = readiness.reason, readiness.message
    return state
