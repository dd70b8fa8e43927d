"""Sends the writes of plans, several plans at a time, and returns the outcomes. The only module that writes.

The writes of one plan are sent in order; the first failure ends the plan. Only the leader writes, and no write outlasts
the Lease.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter

from nvdra_cluster.control.event_correlator import EventCorrelator
from nvdra_cluster.control.reconciler import Plan
from nvdra_cluster.decide.writes import CONFIG_MAPS, Create, Delete, Merge, Write
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import ResourceClient
from nvdra_core.kube.resources import JsonObject, Preconditions, WriteOptions
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline

_LOG = log.get(__name__)
MANAGER = "nvdra-controller"
PARALLEL = 8
TIMEOUT_S = 15.0
OPTIONS = WriteOptions(field_manager=MANAGER)
BEST_EFFORT = frozenset({"events"})
"""Failures of these do not fail the plan."""
REFUSALS = frozenset({403, 404, 413, 422})
"""Retrying does not help: no permission, no namespace, a quota."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a plan's writes."""

    plan: Plan
    stored: tuple[tuple[Write, JsonObject | None], ...] = ()
    """Each successful write with the stored object; None when the object does not exist."""
    failed: Write | None = None
    error: ApiError | None = None


@dataclass(slots=True)
class _Progress:
    stored: list[tuple[Write, JsonObject | None]] = field(default_factory=list)


class NotLeaderError(ApiError):
    """The write was not sent: another replica may lead by now."""


class Writer:
    """See the module. ``run`` is called by one thread."""

    def __init__(
        self,
        client: ResourceClient,
        clock: Clock,
        leads_for_s: Callable[[], float],
        registry: CollectorRegistry,
    ) -> None:
        """``leads_for_s``: remaining seconds of leadership; 0 when not leading."""
        self._client = client
        self._clock = clock
        self._leads_for_s = leads_for_s
        self._counter = Counter(
            "nvdra_controller_writes_total",
            "Writes to the API, by resource, kind of write and outcome.",
            ("resource", "verb", "outcome"),
            registry=registry,
        )
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="writer")
        self._stopped = threading.Event()
        self._events = EventCorrelator()

    def stop(self) -> None:
        """Refuse further writes; those in flight end."""
        self._stopped.set()

    def close(self) -> None:
        """End the threads, after the last ``run``."""
        self._pool.shutdown(wait=False)

    def run(self, plans: Sequence[Plan]) -> list[Outcome]:
        """Send all and wait for the responses. API errors are in the outcomes."""
        if len(plans) == 1:
            return [self._run(plans[0])]
        return list(self._pool.map(self._run, plans))

    def _run(self, plan: Plan) -> Outcome:
        progress = _Progress()
        for decided in plan.writes:
            write = self._events.correlate(decided, self._clock.monotonic())
            try:
                stored = self._write(write)
            except ApiError as error:
                self._count(write, error)
                self._events.record(decided, None, self._clock.monotonic())
                if _is_tolerable(write, error):
                    continue
                return Outcome(plan, tuple(progress.stored), write, error)
            self._count(write, None)
            self._events.record(decided, stored, self._clock.monotonic())
            progress.stored.append((write, stored))
        return Outcome(plan, tuple(progress.stored))

    def _write(self, write: Write) -> JsonObject | None:
        left_s = 0.0 if self._stopped.is_set() else self._leads_for_s()
        if left_s <= 0.0:
            raise NotLeaderError("not the leader", status=0)
        deadline = Deadline(min(TIMEOUT_S, left_s), self._clock)
        client, resource = self._client, write.resource
        _LOG.info("write", v=4, verb=type(write).__name__, key="/".join(write.key))
        if isinstance(write, Create):
            return client.create(resource, write.body, options=OPTIONS, deadline=deadline)
        if isinstance(write, Merge):
            metadata = {"namespace": write.namespace} if write.namespace else {}
            body = {
                **write.patch,
                "metadata": {**metadata, "name": write.name, **write.patch["metadata"]},
            }
            return _or_missing(
                lambda: client.merge_patch(resource, body, options=OPTIONS, deadline=deadline)
            )
        return self._delete(write, deadline)

    def _delete(self, write: Delete, deadline: Deadline) -> JsonObject | None:
        preconditions = Preconditions(uid=write.uid)
        _or_missing(
            lambda: self._client.delete(
                write.resource,
                write.name,
                namespace=write.namespace,
                preconditions=preconditions,
                deadline=deadline,
            )
        )
        return None

    def _count(self, write: Write, error: ApiError | None) -> None:
        outcome = "ok" if error is None else (error.api_reason or "no_answer")
        self._counter.labels(write.resource.plural, type(write).__name__.lower(), outcome).inc()


def _is_tolerable(write: Write, error: ApiError) -> bool:
    """Whether the plan continues after this failure."""
    if write.resource.plural in BEST_EFFORT:
        _LOG.info("event not written", v=4, error=error)
        return True
    if write.resource == CONFIG_MAPS and error.status in REFUSALS:
        _LOG.warning(
            "cannot record released port; its reuse delay ends with this process",
            error, config_map="/".join(write.key[1:]),
        )  # fmt: skip
        return True
    return False


def _or_missing(call: Callable[[], JsonObject | None]) -> JsonObject | None:
    """The result of ``call``; None when the object does not exist."""
    try:
        return call()
    except ApiError as error:
        if error.status == 404 and error.api_reason == "NotFound":
            return None
        raise
