"""Carries writes out, several decisions at a time, and says what came of each. The only module that writes.

Writes of one decision go one after another; the first failure ends it. Everything is done in the
name of the leader: a writer that is no longer the leader refuses, and no write outlasts the Lease.
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
from nvdra_core.kube.client import Client
from nvdra_core.kube.resources import JsonObject, Preconditions, WriteOptions
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline

_LOG = log.get(__name__)
MANAGER = "nvdra-controller"
PARALLEL = 8
TIMEOUT_S = 15.0
OPTIONS = WriteOptions(field_manager=MANAGER)
BEST_EFFORT = frozenset({"events"})
"""A lost one is a pity and no failure."""
REFUSALS = frozenset({403, 404, 413, 422})
"""A try again would be answered the same: no right, no namespace, a quota."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a decision's writes."""

    group: Plan
    stored: tuple[tuple[Write, JsonObject | None], ...] = ()
    """Each write that was done, with the object as it is now; None when it is gone."""
    failed: Write | None = None
    error: ApiError | None = None


@dataclass(slots=True)
class _Progress:
    stored: list[tuple[Write, JsonObject | None]] = field(default_factory=list)


class NotLeaderError(ApiError):
    """The write was not sent, because another replica may be the leader by now."""


class Writer:
    """See the module. ``run`` is called by one thread."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        leads_for_s: Callable[[], float],
        registry: CollectorRegistry,
    ) -> None:
        """``leads_for_s``: how long this replica is sure to be the leader yet; 0 when it is not."""
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
        """End after the writes under way."""
        self._stopped.set()

    def close(self) -> None:
        """End the threads. Nothing may be written any more."""
        self._pool.shutdown(wait=False)

    def run(self, groups: Sequence[Plan]) -> list[Outcome]:
        """Do all; returns when all are done. Never raises for an API that says no."""
        if len(groups) == 1:
            return [self._run(groups[0])]
        return list(self._pool.map(self._run, groups))

    def _run(self, group: Plan) -> Outcome:
        progress = _Progress()
        for decided in group.writes:
            write = self._events.counted(decided, self._clock.monotonic())
            try:
                stored = self._write(write)
            except ApiError as error:
                self._count(write, error)
                self._events.note(decided, None, self._clock.monotonic())
                if _is_bearable(write, error):
                    continue
                return Outcome(group, tuple(progress.stored), write, error)
            self._count(write, None)
            self._events.note(decided, stored, self._clock.monotonic())
            progress.stored.append((write, stored))
        return Outcome(group, tuple(progress.stored))

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
            return _or_gone(
                lambda: client.merge_patch(resource, body, options=OPTIONS, deadline=deadline)
            )
        return self._delete(write, deadline)

    def _delete(self, write: Delete, deadline: Deadline) -> JsonObject | None:
        preconditions = Preconditions(uid=write.uid)
        _or_gone(
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


def _is_bearable(write: Write, error: ApiError) -> bool:
    """Whether the writes after a failed one may go on."""
    if write.resource.plural in BEST_EFFORT:
        _LOG.info("an event was not written", v=4, error=error)
        return True
    if write.resource == CONFIG_MAPS and error.status in REFUSALS:
        _LOG.warning(
            "cannot record a released port; only this process keeps it unused for a while",
            error, config_map="/".join(write.key[1:]),
        )  # fmt: skip
        return True
    return False


def _or_gone(call: Callable[[], JsonObject | None]) -> JsonObject | None:
    """What ``call`` returns; None when the object is not there any more."""
    try:
        return call()
    except ApiError as error:
        if error.status == 404 and error.api_reason == "NotFound":
            return None
        raise
