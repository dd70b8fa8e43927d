"""The DRA service: NodePrepareResources and NodeUnprepareResources, v1 and v1beta1 (KEP-4381).

In: the kubelet's requests. Out: one answer per claim UID of the request, always; whatever goes wrong with a claim is
the text of its answer and never the failure of the call. The work is the ``Transaction``'s. No call is refused because
many run: a refusal costs the pod 60 to 90 s, so calls wait, inside their deadline. Each kind of call has a lane of the
server's threads (``callpool``), so that prepares that wait (for a compute domain, say) starve neither unprepares nor
health streams. ``drain`` refuses new work and waits for what runs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Protocol

import grpc

from nvdra_core.errors import NotReadyError, NvdraError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.checkpoint.claim import ClaimRef, ClaimUID
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.rpc.callpool import Laned
from nvdra_node.rpc.messages import dra_v1, dra_v1beta1

CALL_LIMIT_S = 45.0
"""The kubelet's own deadline for a call; longer ones are cut to it."""

REPLY_MARGIN = 0.05
"""Part of the deadline kept for the answer's way back: late answers are lost, and with them the cause."""

MAX_PARALLEL_CLAIMS = 8
"""Claims of one call handled at the same time; they share fsyncs, and none waits behind a slow one."""

MAX_CLAIM_THREADS = 64
"""Threads for the claims of calls that have several, in total; a call that gets none handles its claims in turn."""

SELF_CHECK = "nvdra.SelfCheck"
"""A service beside the kubelet's, in no lane of theirs: whether this server answers does not depend on what they do."""

ERROR_LIMIT = 800
"""Characters of an error: it lands in pod events."""

_LOG = log.get(__name__)


class Transaction(Protocol):
    """What does the work. Called for different claims, and for the same claim, from several threads at once."""

    def prepare(self, ref: ClaimRef, deadline: Deadline) -> Sequence[PreparedDevice]:
        """Prepare a claim, or answer again what was answered before. Raises NvdraError."""

    def unprepare(self, ref: ClaimRef, deadline: Deadline) -> None:
        """Take the preparation back; a claim never seen is fine. Raises NvdraError."""


class RequestMetrics(Protocol):
    """Where operations are counted (``nvdra_core.runtime.pluginmetrics``)."""

    def operation(self, operation: str) -> AbstractContextManager[None]:
        """Around the work on one claim (``prepare``, ``unprepare``); an exception is its outcome and goes on."""


Answer = Sequence[PreparedDevice] | str
"""What a claim gets: its devices (none for unprepare), or the text of an error."""


class _Batch:
    """The claims of one call, handled by several threads or by the call's own."""

    def __init__(self, claims: Sequence[ClaimRef], answer: Callable[[ClaimRef], Answer]) -> None:
        self._left = deque(claims)
        self._count = len(claims)
        self._answer = answer
        self.answers: dict[str, Answer] = {}
        self.is_done = threading.Event()
        self.has_threads = False

    def work_off(self) -> None:
        """Handle claims until none is left."""
        while True:
            try:
                ref = self._left.popleft()
            except IndexError:
                return
            self.answers[ref.uid] = self._answer(ref)
            if len(self.answers) == self._count:
                self.is_done.set()

    def end(self) -> None:
        """Begin no more claims."""
        self._left.clear()


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
        self._running = 0
        self._is_draining = False
        self._claim_threads = threading.BoundedSemaphore(MAX_CLAIM_THREADS)

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
            while running := self._running:
                remaining_s = deadline.remaining_s()
                if not remaining_s:
                    _LOG.warning("calls still run", driver=self._driver, calls=running)
                    return False
                self._idle.wait(remaining_s)
        return True

    def handlers(self) -> tuple[Any, ...]:
        """Generic gRPC handlers of both API versions, and of the self-check."""
        return _handlers(dra_v1, self), _handlers(dra_v1beta1, self), _self_check()

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
        with self._idle:
            if self._is_draining:
                refusal = "nvdra is stopping on this node; it will be tried again"
                return dict.fromkeys((ref.uid for ref in claims), refusal)
            self._running += 1
        try:
            return self._answers(operation, claims, work, deadline)
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

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
        batch = _Batch(claims, answer)
        # Threads of this call alone: a shared pool could fill up with claims that wait.
        for _ in range(min(len(claims), MAX_PARALLEL_CLAIMS)):
            if not self._start_claim_thread(operation, batch):
                break
            batch.has_threads = True
        if not batch.has_threads:
            batch.work_off()
        self._clock.wait(batch.is_done, deadline.remaining_s())
        batch.end()
        late = f"{operation}: not done within the deadline; it will be tried again"
        return {ref.uid: batch.answers.get(ref.uid, late) for ref in claims}

    def _start_claim_thread(self, operation: str, batch: _Batch) -> bool:
        """False: enough run, or the system gives no more."""
        if not self._claim_threads.acquire(blocking=False):
            return False

        def work() -> None:
            try:
                batch.work_off()
            finally:
                self._claim_threads.release()

        try:
            threading.Thread(target=work, name=f"{operation}-claim", daemon=True).start()
        except RuntimeError as error:
            self._claim_threads.release()
            _LOG.warning("no thread for a claim; the claims of the call take turns", error)
            return False
        return True

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
                _LOG.error(f"{operation} failed", error, claim=ref)
                kind = type(error).__name__
                return f"internal error ({kind}); see the log of nvdra on this node"
            _LOG.info(operation, v=4, claim=ref, devices=len(answer))
            return answer


def error_text(text: str) -> str:
    """An error as it goes to the kubelet: one line, not empty, not long."""
    line = " ".join(text.split()) or "unknown error"
    return line if len(line) <= ERROR_LIMIT else line[: ERROR_LIMIT - 3] + "..."


def _log_failure(operation: str, ref: ClaimRef, error: NvdraError) -> None:
    if isinstance(error, NotReadyError):  # what time heals is repeated every few seconds: no alarm
        _LOG.info(f"{operation}: not yet", claim=ref, reason=error.reason, error=error)
    else:
        _LOG.warning(f"{operation} failed", error, claim=ref)


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
            Laned("prepare", prepare),
            request_deserializer=pb.NodePrepareResourcesRequest.FromString,
            response_serializer=pb.NodePrepareResourcesResponse.SerializeToString,
        ),
        "NodeUnprepareResources": grpc.unary_unary_rpc_method_handler(
            Laned("unprepare", unprepare),
            request_deserializer=pb.NodeUnprepareResourcesRequest.FromString,
            response_serializer=pb.NodeUnprepareResourcesResponse.SerializeToString,
        ),
    }
    return grpc.method_handlers_generic_handler(f"{pb.PACKAGE}.DRAPlugin", methods)


def _self_check() -> Any:
    """Answers an empty message with one."""
    return grpc.method_handlers_generic_handler(
        SELF_CHECK, {"Ping": grpc.unary_unary_rpc_method_handler(lambda request, context: request)}
    )
