"""Reconcile loop: takes keys from the work queue, decides, writes, and applies the responses. One thread.

Every response is in the cache before the next decision, so no decision acts on less than what this process did itself.
Standbys keep their caches and queues warm and decide nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from nvdra_cluster.control.deletion_check import DeletionCheck
from nvdra_cluster.control.node_loss import NodeLossDetector
from nvdra_cluster.control.reconciler import Now, Plan, Reconciler
from nvdra_cluster.control.report_verifier import ReportVerifier
from nvdra_cluster.control.responses import ResponseHandler
from nvdra_cluster.control.state.cache import Cache, Key, Kind
from nvdra_cluster.control.state.fabric_handler import FabricNodeHandler
from nvdra_cluster.control.state.heartbeats import HeartbeatTracker, format_time
from nvdra_cluster.control.writer import Outcome, Writer
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import ResourceClient
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock
from nvdra_core.runtime.workers import Heartbeat

_LOG = log.get(__name__)
BATCH_SIZE = 400
GATHER_S = 0.02
"""How long changes are gathered before a batch is taken."""
TICK_S = 1.0
STATUS_INTERVAL_S = 1.0
"""Minimum between two status writes of a domain with several nodes: they join and become ready one by one."""
STATUS_INTERVAL_PER_NODE_S = 0.005
"""A status with many nodes is large and written less often."""
STATUS_INTERVAL_LIMIT_S = 2.0
"""Upstream updates the status every two seconds."""
DEBOUNCE_S = 0.3
"""A joined node is added to its peers' specs when no other has joined for so long."""
DEBOUNCE_LIMIT_S = 2.0
RESYNC_S = 600.0
RECHECK_S = 30.0
"""Interval for keys that wait for something no event reports."""


@dataclass(slots=True)
class _Debounce:
    """Writes of a key that wait for more of their kind."""

    since_s: float
    last_s: float

    def ends_s(self) -> float:
        """When they are written at the latest."""
        return min(self.since_s + DEBOUNCE_LIMIT_S, self.last_s + DEBOUNCE_S)


@dataclass(kw_only=True)
class Controller:
    """See the module. ``lead`` in a thread of its own, once leading."""

    cache: Cache
    reconciler: Reconciler
    writer: Writer
    client: ResourceClient
    clock: Clock
    stopping: threading.Event
    report_verifier: ReportVerifier = field(init=False)
    deletion_check: DeletionCheck = field(init=False)
    node_loss: NodeLossDetector = field(init=False)
    fabric_handler: FabricNodeHandler = field(init=False)
    responses: ResponseHandler = field(init=False)
    heartbeats: HeartbeatTracker = field(default_factory=HeartbeatTracker)
    refresh: Callable[[], None] = lambda: None
    """Reads the CA of the certificates; called at the start and at every resync."""
    _next_status_s: dict[Key, float] = field(default_factory=dict)
    _debounces: dict[Key, _Debounce] = field(default_factory=dict)
    _resync_at_s: float = 0.0
    _recheck_at_s: float = 0.0
    _ticked_at_s: float = 0.0
    _is_fresh: bool = False

    def __post_init__(self) -> None:
        cache, client, clock = self.cache, self.client, self.clock
        self.report_verifier = ReportVerifier(cache, client, clock)
        self.fabric_handler = FabricNodeHandler(
            cache=cache, clock=clock, heartbeats=self.heartbeats
        )
        self.node_loss = NodeLossDetector(
            cache=cache,
            client=client,
            clock=clock,
            heartbeats=self.heartbeats,
            fabric_handler=self.fabric_handler,
        )
        self.deletion_check = DeletionCheck(
            cache=cache, client=client, clock=clock, fabric_handler=self.fabric_handler
        )
        self.responses = ResponseHandler(
            cache=cache,
            client=client,
            fabric_handler=self.fabric_handler,
            released=self.reconciler.released,
        )

    def lead(self, heartbeat: Heartbeat | None = None) -> None:
        """Reconcile until ``stopping``; the caches must be synced."""
        now_s = self.clock.monotonic()
        is_known = self.reconciler.released.read(self.client, self.clock)
        self.reconciler.adopt(now_s)
        if not is_known:
            self.reconciler.suspend_allocation(now_s)
        self.writer.run(self.reconciler.report_isolation(self._now()))
        self._refresh()
        self.cache.enqueue_all()
        self._resync_at_s, self._recheck_at_s = now_s + RESYNC_S, now_s + RECHECK_S
        while not self.stopping.is_set():
            if heartbeat is not None:
                heartbeat.beat()
            if self.cache.queue.wait(TICK_S):
                self.clock.wait(self.stopping, GATHER_S)
            self._tick()
            self.reconcile_once()
            if self.cache.report_states.pending:
                self.report_verifier.wake()

    def reconcile_once(self) -> int:
        """Process one batch of keys; returns the number of keys with writes."""
        keys = self.cache.queue.get(BATCH_SIZE)
        try:
            return self._process([key for key in keys if not self._postpone(key)])
        finally:
            self.cache.queue.done(*keys)

    def _process(self, keys: list[Key]) -> int:
        now = self._now()
        plans = self.reconciler.decide(keys, now)
        for key in set(keys) - {plan.key for plan in plans}:
            self.cache.queue.forget(key)
            self._debounces.pop(key, None)
        confirmed = [sure for plan in plans for sure in self._confirm_deletion(plan, now)]
        due = [urgent for plan in confirmed if (urgent := self._debounce(plan, now)).writes]
        for outcome in self.writer.run(due) if due else ():
            self._apply(outcome)
        return len(due)

    def _now(self) -> Now:
        return Now(self.clock.monotonic(), format_time(self.clock.wall()))

    def _postpone(self, key: Key) -> bool:
        """Whether a domain's status was written too short a time ago; the key comes back."""
        wait_s = self._next_status_s.get(key, 0.0) - self.clock.monotonic()
        domain = self.cache.domains.get(key.name) if key.kind is Kind.DOMAIN else None
        if wait_s <= 0.0 or domain is None or domain.is_deleting:
            return False
        self.cache.queue.add_after(key, wait_s)
        return True

    def _debounce(self, plan: Plan, now: Now) -> Plan:
        """The plan without the writes that wait for more of their kind; the key comes back for them."""
        urgent = tuple(write for write in plan.writes if write.is_urgent)
        if len(urgent) == len(plan.writes):
            return plan
        debounce = self._debounces.setdefault(plan.key, _Debounce(now.monotonic_s, now.monotonic_s))
        if urgent:
            debounce.last_s = now.monotonic_s
        wait_s = debounce.ends_s() - now.monotonic_s
        if wait_s <= 0.0:
            del self._debounces[plan.key]
            return plan
        self.cache.queue.add_after(plan.key, wait_s)
        return replace(plan, writes=urgent)

    def _confirm_deletion(self, plan: Plan, now: Now) -> list[Plan]:
        """Read the holders of a domain that is about to go, and decide again."""
        if plan.ends is None:
            return [plan]
        try:
            self.deletion_check.refresh(plan.ends)
        except ApiError as error:
            self._retry(plan.key, error)
            return []
        return self.reconciler.decide([plan.key], now)

    def _apply(self, outcome: Outcome) -> None:
        key = outcome.plan.key
        self.responses.apply(outcome)
        self._limit_status(key)
        if outcome.error is None:
            self.cache.queue.forget(key)
        else:
            self._retry(key, outcome.error)

    def _retry(self, key: Key, error: ApiError) -> None:
        pause_s = self.cache.queue.add_rate_limited(key, error.retry_after_s or 0.0)
        _LOG.warning(
            "API request failed; retrying",
            error, key=f"{key.kind.value} {key.name}", retry_s=f"{pause_s:.1f}",
        )  # fmt: skip

    def _limit_status(self, key: Key) -> None:
        domain = self.cache.domains.get(key.name) if key.kind is Kind.DOMAIN else None
        count = len(domain.status.nodes) if domain is not None and not domain.is_deleting else 0
        if count > 1:
            pause_s = min(STATUS_INTERVAL_LIMIT_S, count * STATUS_INTERVAL_PER_NODE_S)
            self._next_status_s[key] = self.clock.monotonic() + max(STATUS_INTERVAL_S, pause_s)
        else:
            self._next_status_s.pop(key, None)

    def _tick(self) -> None:
        """Periodic work."""
        now_s = self.clock.monotonic()
        if now_s - self._ticked_at_s >= TICK_S:
            self._ticked_at_s = now_s
            self.fabric_handler.apply_delayed()
            self.node_loss.detect()
        if now_s >= self._recheck_at_s:
            self._recheck_at_s = now_s + RECHECK_S
            self._enqueue_waiting()
            self.report_verifier.requeue_refuted()
            is_switched = self.reconciler.switch_isolation(now_s)
            if is_switched or (not self._is_fresh and self._refresh()):
                self.cache.enqueue_all()
        if now_s >= self._resync_at_s:
            self._resync_at_s = now_s + RESYNC_S
            self._refresh()
            self.cache.enqueue_all()

    def _refresh(self) -> bool:
        try:
            self.refresh()
        except ApiError as error:
            _LOG.warning("cannot read or write the CA of IMEX peers; retrying", error)
            self._is_fresh = False
        else:
            self._is_fresh = True
        return self._is_fresh

    def _enqueue_waiting(self) -> None:
        """Queue what no event reports: reuse delays that end, a template's name or a number that becomes free, an
        unconfirmed report that holds a deletion.
        """
        cache = self.cache
        with cache.lock:
            domains = cache.domains.values()
            waiting = (d.uid for d in domains if d.is_deleting or d.status.assignment is None)
            cliques = cache.reuse_delays.expired(self.clock.monotonic())
            cache.enqueue(
                *(Key(Kind.DOMAIN, uid) for uid in waiting),
                *(cache.home_key(name) for name in cache.full),
                *(Key(Kind.CLIQUE, clique_id) for clique_id in cliques),
                *(Key(Kind.DOMAIN, uid) for uid in cache.template_problems),
            )
