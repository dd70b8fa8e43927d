"""Client of this node's IMEX supervisor (``proto/supervisor_v1.proto``). Called by ``driver`` and ``connection``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc
import msgspec

from nvdra_core.errors import ClaimError, NotReadyError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.computedomain.effects import JoinDomain
from nvdra_node.computedomain.model import DomainState, Membership, NodeView
from nvdra_node.rpc.messages import supervisor_v1_pb2 as pb
from nvdra_node.rpc.messages.supervisor_v1_pb2_grpc import SupervisorStub

CALL_S = 5.0
"""Timeout of calls that do not wait, and allowance for those that do."""
UNAVAILABLE_PAUSE_S = 1.0
RETRY_AFTER_S = 0.05


class HeldClaim(msgspec.Struct, frozen=True):
    """A claim that has a record."""

    effect: JoinDomain
    is_prepared: bool


class SupervisorClient(Protocol):
    """Calls of the supervisor. All raise NotReadyError when it does not answer."""

    def join(self, effect: JoinDomain, wait_s: float) -> Membership:
        """Wait until the claim's domain is ready here. Raises NotReadyError (not yet) or ClaimError (never)."""

    def leave(self, claim_uid: str) -> None:
        """The claim no longer needs its domain."""

    def sync(self, held: Sequence[HeldClaim]) -> None:
        """Report all claims that have a record."""

    def watch(self) -> Iterator[NodeView]:
        """The node's state now and after each change, until the connection ends."""

    def close(self) -> None:
        """End the connection."""


class GrpcSupervisorClient:
    """See SupervisorClient; gRPC over its unix socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        # A restart must be noticed soon, not after a backoff of minutes.
        options = [("grpc.max_reconnect_backoff_ms", 1000), ("grpc.enable_http_proxy", 0)]
        # Otherwise the watch keeps a second thread, and both wake ten times a second.
        options += [("SingleThreadedUnaryStream", 1)]
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=options)
        self._stub = SupervisorStub(self._channel)
        self._watching: Any = None

    def join(self, effect: JoinDomain, wait_s: float) -> Membership:
        """See SupervisorClient."""
        request = pb.JoinRequest(
            claim=_claim(effect), domain_uid=effect.domain_uid, wait_ms=int(wait_s * 1000)
        )
        answer = self._call(self._stub.Join, request, wait_s + CALL_S)
        if answer.outcome == pb.OUTCOME_REFUSED:
            raise ClaimError(f"claim {effect.namespace}/{effect.name}: {answer.message}")
        if answer.outcome != pb.OUTCOME_READY:
            raise NotReadyError(
                f"ComputeDomain {effect.domain_uid} is not ready on this node: {answer.reason}: {answer.message}",
                retry_after_s=RETRY_AFTER_S,
            )
        return Membership(
            domain_uid=effect.domain_uid,
            has_fabric=answer.has_fabric,
            channel=answer.channel,
            channel_count=answer.channel_count,
            isolation=answer.isolation or "domain",
        )

    def leave(self, claim_uid: str) -> None:
        """See SupervisorClient."""
        self._call(self._stub.Leave, pb.LeaveRequest(claim_uid=claim_uid), CALL_S)

    def sync(self, held: Sequence[HeldClaim]) -> None:
        """See SupervisorClient."""
        request = pb.SyncRequest()
        for each in held:
            request.held.add(
                claim=_claim(each.effect),
                domain_uid=each.effect.domain_uid,
                prepared=each.is_prepared,
            )
        self._call(self._stub.Sync, request, CALL_S)

    def watch(self) -> Iterator[NodeView]:
        """See SupervisorClient."""
        self._watching = self._stub.Watch(pb.WatchRequest())
        try:
            for state in self._watching:
                yield parse_state(state)
        except grpc.RpcError as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        """See SupervisorClient."""
        if self._watching is not None:
            self._watching.cancel()
        self._channel.close()

    def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        try:
            return method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Any) -> NotReadyError:
        return NotReadyError(
            f"the IMEX supervisor of this node does not answer on {self._socket} ({error.code().name}); check"
            " nvdra-imex-supervisor.service",
            retry_after_s=UNAVAILABLE_PAUSE_S,
        )


def parse_state(state: Any) -> NodeView:
    """A NodeState message -> view."""
    return NodeView(
        fabric_state=state.fabric_state,
        fabric_message=state.fabric_message,
        cluster_uuid=state.cluster_uuid,
        clique_id=state.clique_id,
        channel_count=state.channel_count,
        imex_state=state.imex_state,
        domains={
            domain.uid: DomainState(
                isolation=domain.isolation,
                is_ready=domain.ready,
                reason=domain.reason,
                message=domain.message,
            )
            for domain in state.domains
        },
    )


def _claim(effect: JoinDomain) -> Any:
    return pb.Claim(namespace=effect.namespace, name=effect.name, uid=effect.uid)


def remaining(deadline: Deadline, at_most_s: float) -> float:
    """Wait of one call: at most ``at_most_s``, and short enough for the answer to arrive before the deadline."""
    return max(0.0, min(at_most_s, deadline.remaining_s() - RETRY_AFTER_S))
