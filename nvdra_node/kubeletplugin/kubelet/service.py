"""The DRA service: NodePrepareResources and NodeUnprepareResources, v1 and v1beta1 (KEP-4381).

Every claim UID of a request gets a result; an error of one claim is the text of its result and never fails the call.
The work is done by a ``Transaction``. Calls wait inside their deadline instead of being refused: after a refusal the
kubelet retries only with the pod's next sync, 60 to 90 s later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from contextlib import AbstractContextManager
from typing import Any, Protocol

from nvdra_core.errors import NotReadyError, NvdraError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.checkpoint.claim import ClaimRef, ClaimUID
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.rpc.messages import (
    dra_v1_pb2,
    dra_v1_pb2_grpc,
    dra_v1beta1_pb2,
    dra_v1beta1_pb2_grpc,
)
from nvdra_node.rpc.server import CallThreads

CALL_LIMIT_S = 45.0
"""The kubelet's deadline of a call; longer ones are cut to it."""

REPLY_MARGIN = 0.05
"""Part of the deadline that is kept for sending the response: a late one is lost, and with it the error."""

MAX_CLAIM_THREADS = 256
"""Threads for the claims of calls that have several, beside each call's own thread."""

ERROR_LIMIT = 800
"""Characters of an error, which appears in pod events."""

_LOG = log.get(__name__)

Result = Sequence[PreparedDevice] | str
"""Of one claim: its devices (none for unprepare), or the text of an error."""


class Transaction(Protocol):
    """Prepares and unprepares claims. Called from several threads, also for the same claim."""

    def prepare(self, ref: ClaimRef, deadline: Deadline) -> Sequence[PreparedDevice]:
        """Prepare a claim; a repeated call returns the same devices. Raises NvdraError."""

    def unprepare(self, ref: ClaimRef, deadline: Deadline) -> None:
        """Undo the preparation, if there is one. Raises NvdraError."""


class RequestMetrics(Protocol):
    """Where operations are counted (``kubeletplugin.metrics``)."""

    def operation(self, operation: str) -> AbstractContextManager[None]:
        """Counts the work on one claim (``prepare``, ``unprepare``) with its outcome; exceptions pass through."""


class DraService:
    """See the module."""

    def __init__(
        self, driver: str, transaction: Transaction, metrics: RequestMetrics, clock: Clock
    ) -> None:
        self._driver = driver
        self._transaction = transaction
        self._metrics = metrics
        self._clock = clock
        self._idle = threading.Condition()
        self._running = 0
        self._is_draining = False
        self._claim_threads = CallThreads(MAX_CLAIM_THREADS, "claim")

    def add_to(self, server: Any) -> None:
        """Add both API versions to a gRPC server."""
        v1, v1beta1 = _Servicer(self, dra_v1_pb2), _Servicer(self, dra_v1beta1_pb2)
        dra_v1_pb2_grpc.add_DRAPluginServicer_to_server(v1, server)
        dra_v1beta1_pb2_grpc.add_DRAPluginServicer_to_server(v1beta1, server)

    def prepare(self, refs: Iterable[ClaimRef], deadline: Deadline) -> dict[str, Result]:
        """Prepare claims; a result for each UID."""
        return self._call(
            "prepare", refs, lambda ref: self._transaction.prepare(ref, deadline), deadline
        )

    def unprepare(self, refs: Iterable[ClaimRef], deadline: Deadline) -> dict[str, Result]:
        """Unprepare claims; a result for each UID."""

        def undo(ref: ClaimRef) -> Result:
            self._transaction.unprepare(ref, deadline)
            return ()

        return self._call("unprepare", refs, undo, deadline)

    def drain(self, deadline: Deadline) -> bool:
        """Refuse new calls and wait for running ones; False when some still run at the deadline."""
        with self._idle:
            self._is_draining = True
            while running := self._running:
                remaining_s = deadline.remaining_s()
                if not remaining_s:
                    _LOG.warning("calls still run", driver=self._driver, calls=running)
                    return False
                self._idle.wait(remaining_s)
        return True

    def deadline(self, context: Any) -> Deadline:
        """The call's deadline, less the time to send the response."""
        remaining_s = context.time_remaining()
        limit_s = CALL_LIMIT_S if remaining_s is None else min(max(0.0, remaining_s), CALL_LIMIT_S)
        return Deadline(limit_s * (1.0 - REPLY_MARGIN), self._clock)

    def _call(
        self,
        operation: str,
        refs: Iterable[ClaimRef],
        work: Callable[[ClaimRef], Result],
        deadline: Deadline,
    ) -> dict[str, Result]:
        claims = list({ref.uid: ref for ref in refs}.values())
        if not claims:
            return {}
        with self._idle:
            if self._is_draining:
                refusal = "nvdra is stopping on this node; it will be tried again"
                return dict.fromkeys((ref.uid for ref in claims), refusal)
            self._running += 1
        try:
            if len(claims) == 1:
                return {claims[0].uid: self._result(operation, claims[0], work)}
            return self._results(operation, claims, work, deadline)
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def _results(
        self,
        operation: str,
        claims: Sequence[ClaimRef],
        work: Callable[[ClaimRef], Result],
        deadline: Deadline,
    ) -> dict[str, Result]:
        calls = {
            ref: self._claim_threads.submit(self._result, operation, ref, work) for ref in claims
        }
        # This thread takes what no other has begun: all of them may be busy with claims that wait.
        own: dict[str, Result] = {
            ref.uid: self._result(operation, ref, work)
            for ref, call in calls.items()
            if call.cancel()
        }
        others = {ref.uid: call for ref, call in calls.items() if ref.uid not in own}
        return {**own, **_collect(operation, others, deadline)}

    def _result(self, operation: str, ref: ClaimRef, work: Callable[[ClaimRef], Result]) -> Result:
        with log.operation():
            try:
                with self._metrics.operation(operation):
                    result = work(ref)
            except NvdraError as error:
                _log_failure(operation, ref, error)
                return error_text(str(error))
            # An exception that escaped would fail all claims of the call.
            except Exception as error:  # noqa: BLE001
                _LOG.error(f"{operation} failed", error, claim=ref)
                kind = type(error).__name__
                return f"internal error ({kind}); see the log of nvdra on this node"
            _LOG.info(operation, v=4, claim=ref, devices=len(result))
            return result


def _collect(
    operation: str, calls: Mapping[ClaimUID, futures.Future[Result]], deadline: Deadline
) -> dict[str, Result]:
    done, late = futures.wait(calls.values(), deadline.remaining_s())
    for call in late:
        call.cancel()
    error = f"{operation}: not done within the deadline; it will be tried again"
    return {uid: call.result() if call in done else error for uid, call in calls.items()}


def error_text(text: str) -> str:
    """An error as the kubelet gets it: one line, not empty, at most ``ERROR_LIMIT`` characters."""
    line = " ".join(text.split()) or "unknown error"
    return line if len(line) <= ERROR_LIMIT else line[: ERROR_LIMIT - 3] + "..."


def _log_failure(operation: str, ref: ClaimRef, error: NvdraError) -> None:
    if isinstance(error, NotReadyError):  # retried every few seconds until it is ready: no warning
        _LOG.info(f"{operation}: not yet", claim=ref, reason=error.reason, error=error)
    else:
        _LOG.warning(f"{operation} failed", error, claim=ref)


class _Servicer:
    """The gRPC methods of one API version; ``pb``: its messages."""

    def __init__(self, service: DraService, pb: Any) -> None:
        self._service = service
        self._pb = pb

    def NodePrepareResources(self, request: Any, context: Any) -> Any:
        """See the proto."""
        results = self._service.prepare(_refs(request), self._service.deadline(context))
        response = self._pb.NodePrepareResourcesResponse()
        for uid, result in results.items():
            entry = response.claims[uid]
            if isinstance(result, str):
                entry.error = result
            else:
                entry.devices.extend(self._device(device) for device in result)
        return response

    def NodeUnprepareResources(self, request: Any, context: Any) -> Any:
        """See the proto."""
        results = self._service.unprepare(_refs(request), self._service.deadline(context))
        response = self._pb.NodeUnprepareResourcesResponse()
        for uid, result in results.items():
            entry = response.claims[uid]  # creates the entry; an empty one reports success
            if isinstance(result, str):
                entry.error = result
        return response

    def _device(self, device: PreparedDevice) -> Any:
        message = self._pb.Device(
            # The kubelet matches containers by main request, without the sub-request.
            request_names=[device.request.partition("/")[0]],
            pool_name=device.pool,
            device_name=device.device,
            cdi_device_ids=device.cdi_ids,
        )
        if device.share_id is not None and self._pb is dra_v1_pb2:
            message.share_id = device.share_id
        return message


def _refs(request: Any) -> list[ClaimRef]:
    return [ClaimRef(c.namespace, c.name, ClaimUID(c.uid)) for c in request.claims]
