"""The DRA service: NodePrepareResources and NodeUnprepareResources, v1 and v1beta1 (KEP-4381).

In: the kubelet's requests. Out: one answer per claim UID of the request, always; whatever goes wrong with a claim is
the text of its answer and never the failure of the call. The work is the ``Transaction``'s. Calls of one kind have a
cap below the server's threads, so that prepares that wait (for a compute domain, say) starve neither unprepares nor
the prepare that they wait for. ``drain`` refuses new work and waits for what runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Protocol

from nvdra_core import log
from nvdra_core.clock import Clock, Deadline
from nvdra_core.errors import NotReadyError, NvdraError
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.kubeletplugin.claim import ClaimRef, ClaimUID
from nvdra_node.kubeletplugin.leangrpc import grpc
from nvdra_node.kubeletplugin.pb import dra_v1, dra_v1beta1

CALL_LIMIT_S = 45.0
"""The kubelet's own deadline for a call; longer ones are cut to it."""

REPLY_MARGIN = 0.05
"""Part of the deadline kept for the answer's way back: late answers are lost, and with them the cause."""

MAX_CALLS = {"prepare": 40, "unprepare": 12}
"""Calls of each kind at the same time."""

MAX_PARALLEL_CLAIMS = 8
"""Claims of one call handled at the same time; they share fsyncs, and none waits behind a slow one."""

ERROR_LIMIT = 800
"""Characters of an error: it lands in pod events."""

_log = log.get(__name__)


class Transaction(Protocol):
    """What does the work. Called for different claims, and for the same claim, from several threads at once."""

    def prepare(self, ref: ClaimRef, deadline: Deadline) -> Sequence[PreparedDevice]:
        """Prepare a claim, or answer again what was answered before. Raises NvdraError."""

    def unprepare(self, ref: ClaimRef, deadline: Deadline) -> None:
        """Take the preparation back; a claim never seen is fine. Raises NvdraError."""


class RequestMetrics(Protocol):
    """Where operations are counted (``nvdra_core.pluginmetrics``)."""

    def operation(self, operation: str) -> AbstractContextManager[None]:
        """Around the work on one claim (``prepare``, ``unprepare``); an exception is its outcome and goes on."""


Answer = Sequence[PreparedDevice] | str
"""What a claim gets: its devices (none for unprepare), or the text of an error."""


class DraService:
    """The service behind the DRA socket; see the module."""

    def __init__(
        self, driver: str, transaction: Transaction, metrics: RequestMetrics, clock: Clock
    ) -> None:
        self._driver = driver
        self._transaction = transaction
        self._metrics = metrics
        self._clock = clock
        self._idle = threading.Condition()
        self._running = dict.fromkeys(MAX_CALLS, 0)
        self._is_draining = False

    def prepare(self, refs: Iterable[ClaimRef], deadline: Deadline) -> dict[str, Answer]:
        """An answer for each UID; never raises for what happens to a claim."""
        return self._call(
            "prepare", refs, lambda ref: self._transaction.prepare(ref, deadline), deadline
        )

    def unprepare(self, refs: Iterable[ClaimRef], deadline: Deadline) -> dict[str, Answer]:
        """An answer for each UID; never raises for what happens to a claim."""

        def undo(ref: ClaimRef) -> Answer:
            self._transaction.unprepare(ref, deadline)
            return ()

        return self._call("unprepare", refs, undo, deadline)

    def drain(self, deadline: Deadline) -> bool:
        """Refuse new work and wait for what runs; False when some of it still ran at the deadline."""
        with self._idle:
            self._is_draining = True
            while running := sum(self._running.values()):
                remaining_s = deadline.remaining_s()
                if not remaining_s:
                    _log.warning("calls still run", driver=self._driver, calls=running)
                    return False
                self._idle.wait(remaining_s)
        return True

    def handlers(self) -> tuple[Any, ...]:
        """Generic gRPC handlers of both API versions."""
        return _handlers(dra_v1, self), _handlers(dra_v1beta1, self)

    def deadline(self, context: Any) -> Deadline:
        """The call's deadline, less the way back."""
        remaining_s = context.time_remaining()
        limit_s = CALL_LIMIT_S if remaining_s is None else min(max(0.0, remaining_s), CALL_LIMIT_S)
        return Deadline(limit_s * (1.0 - REPLY_MARGIN), self._clock)

    def _call(
        self,
        operation: str,
        refs: Iterable[ClaimRef],
        work: Callable[[ClaimRef], Answer],
        deadline: Deadline,
    ) -> dict[str, Answer]:
        claims = list({ref.uid: ref for ref in refs}.values())
        if not claims:
            return {}
        if refusal := self._enter(operation):
            return dict.fromkeys((ref.uid for ref in claims), refusal)
        try:
            return self._answers(operation, claims, work, deadline)
        finally:
            with self._idle:
                self._running[operation] -= 1
                self._idle.notify_all()

    def _enter(self, operation: str) -> str:
        """Count a call as running; if it may not run, why."""
        with self._idle:
            if self._is_draining:
                return "nvdra is stopping on this node; it will be tried again"
            if self._running[operation] >= MAX_CALLS[operation]:
                return f"{MAX_CALLS[operation]} {operation} calls are running already; it will be tried again"
            self._running[operation] += 1
            return ""

    def _answers(
        self,
        operation: str,
        claims: Sequence[ClaimRef],
        work: Callable[[ClaimRef], Answer],
        deadline: Deadline,
    ) -> dict[str, Answer]:
        def answer(ref: ClaimRef) -> Answer:
            return self._answer(operation, ref, work)

        if len(claims) == 1:
            return {claims[0].uid: answer(claims[0])}
        # Threads of this call alone: a shared pool could fill up with claims that wait.
        pool = futures.ThreadPoolExecutor(
            min(len(claims), MAX_PARALLEL_CLAIMS), thread_name_prefix=operation
        )
        running = {ref.uid: pool.submit(answer, ref) for ref in claims}
        futures.wait(running.values(), timeout=deadline.remaining_s())
        pool.shutdown(wait=False, cancel_futures=True)
        late = f"{operation}: not done within the deadline; it will be tried again"
        return {
            uid: future.result() if future.done() and not future.cancelled() else late
            for uid, future in running.items()
        }

    def _answer(self, operation: str, ref: ClaimRef, work: Callable[[ClaimRef], Answer]) -> Answer:
        with log.operation():
            try:
                with self._metrics.operation(operation):
                    answer = work(ref)
            except NvdraError as error:
                _log_failure(operation, ref, error)
                return error_text(str(error))
            # The border: an error that escaped would fail all claims of the call. It is logged with its stack.
            except Exception as error:  # noqa: BLE001
                _log.error(f"{operation} failed", error, claim=ref)
                kind = type(error).__name__
                return f"internal error ({kind}); see the log of nvdra on this node"
            _log.info(operation, v=4, claim=ref, devices=len(answer))
            return answer


def error_text(text: str) -> str:
    """An error as it goes to the kubelet: one line, not empty, not long."""
    line = " ".join(text.split()) or "unknown error"
    return line if len(line) <= ERROR_LIMIT else line[: ERROR_LIMIT - 3] + "..."


def _log_failure(operation: str, ref: ClaimRef, error: NvdraError) -> None:
    if isinstance(error, NotReadyError):  # what time heals is repeated every few seconds: no alarm
        _log.info(f"{operation}: not yet", claim=ref, reason=error.reason, error=error)
    else:
        _log.warning(f"{operation} failed", error, claim=ref)


def _refs(request: Any) -> list[ClaimRef]:
    return [ClaimRef(c.namespace, c.name, ClaimUID(c.uid)) for c in request.claims]


def _prepare_response(pb: ModuleType, answers: Mapping[str, Answer]) -> Any:
    response = pb.NodePrepareResourcesResponse()
    has_share_id = pb is dra_v1
    for uid, answer in answers.items():
        entry = response.claims[uid]
        if isinstance(answer, str):
            entry.error = answer
            continue
        for device in answer:
            sent = entry.devices.add(
                # The kubelet matches containers against main requests.
                request_names=[device.request.partition("/")[0]],
                pool_name=device.pool,
                device_name=device.device,
                cdi_device_ids=device.cdi_ids,
            )
            if has_share_id and device.share_id is not None:
                sent.share_id = device.share_id
    return response


def _unprepare_response(pb: ModuleType, answers: Mapping[str, Answer]) -> Any:
    response = pb.NodeUnprepareResourcesResponse()
    for uid, answer in answers.items():
        entry = response.claims[
            uid
        ]  # reading makes the entry, and an empty entry says that all is well
        if isinstance(answer, str):
            entry.error = answer
    return response


def _handlers(pb: Any, service: DraService) -> Any:
    def prepare(request: Any, context: Any) -> Any:
        return _prepare_response(pb, service.prepare(_refs(request), service.deadline(context)))

    def unprepare(request: Any, context: Any) -> Any:
        return _unprepare_response(pb, service.unprepare(_refs(request), service.deadline(context)))

    methods = {
        "NodePrepareResources": grpc.unary_unary_rpc_method_handler(
            prepare,
            request_deserializer=pb.NodePrepareResourcesRequest.FromString,
            response_serializer=pb.NodePrepareResourcesResponse.SerializeToString,
        ),
        "NodeUnprepareResources": grpc.unary_unary_rpc_method_handler(
            unprepare,
            request_deserializer=pb.NodeUnprepareResourcesRequest.FromString,
            response_serializer=pb.NodeUnprepareResourcesResponse.SerializeToString,
        ),
    }
    return grpc.method_handlers_generic_handler(f"{pb.PACKAGE}.DRAPlugin", methods)
