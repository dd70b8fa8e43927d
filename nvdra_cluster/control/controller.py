"""The controller's heart: waits for what is due, decides, writes, takes over the answers. One thread.

Every answer of the API is put into the cache before the next decision, so that a decision never acts
on less than what this process did itself. Standbys keep their caches warm and decide nothing.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from nvdra_cluster.control.deletion_check import DeletionCheck
from nvdra_cluster.control.dropped_fields import DroppedFieldDetector
from nvdra_cluster.control.node_loss import NodeLossDetector
from nvdra_cluster.control.reconciler import Now, Plan, Reconciler
from nvdra_cluster.control.report_verifier import ReportVerifier
from nvdra_cluster.control.state import decode
from nvdra_cluster.control.state.cache import Cache, Key, Kind
from nvdra_cluster.control.state.fabric_handler import FabricNodeHandler
from nvdra_cluster.control.state.heartbeats import HeartbeatTracker, format_time
from nvdra_cluster.control.writer import Outcome, Writer
from nvdra_cluster.decide.model import DOMAIN_LABEL, DomainView, Problem
from nvdra_cluster.decide.writes import TEMPLATES, Create, Delete, Merge, Write
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import Client
from nvdra_core.kube.resources import JsonObject
from nvdra_core.kube.retry import Backoff
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock
from nvdra_core.runtime.workers import Heartbeat

_LOG = log.get(__name__)
BATCH = 400
GATHER_S = 0.02
"""How long changes are gathered before they are acted on."""
TICK_S = 1.0
REST_S = 1.0
"""Between two writes of the status of a domain with several nodes: they join and become ready one by one."""
REST_S_A_NODE = 0.005
"""With many nodes the status is long, and written less often."""
REST_LIMIT_S = 2.0
"""Upstream looks every two seconds."""
CALM_S = 0.3
"""How long after a node that joined the others of its clique are told of it, as more may join."""
CALM_LIMIT_S = 2.0
RESYNC_S = 600.0
STUCK_S = 30.0
"""How often what waits for something that no event tells of is looked at."""


@dataclass(slots=True)
class _Retry:
    at_s: float
    failures: int


@dataclass(slots=True)
class _Calm:
    """Writes that wait for more of their kind."""

    since_s: float
    last_s: float

    def ends_s(self) -> float:
        """When they are written."""
        return min(self.since_s + CALM_LIMIT_S, self.last_s + CALM_S)


@dataclass(kw_only=True)
class Controller:
    """See the module. ``lead`` in a thread of its own, once leading."""

    cache: Cache
    reconciler: Reconciler
    writer: Writer
    client: Client
    clock: Clock
    stopping: threading.Event
    verifier: ReportVerifier = field(init=False)
    deletion_check: DeletionCheck = field(init=False)
    losses: NodeLossDetector = field(init=False)
    fabric_handler: FabricNodeHandler = field(init=False)
    schemas: DroppedFieldDetector = field(default_factory=DroppedFieldDetector)
    heartbeats: HeartbeatTracker = field(default_factory=HeartbeatTracker)
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=0.5, limit_s=STUCK_S))
    gather_s: float = GATHER_S
    refresh: Callable[[], None] = lambda: None
    """Called at the start and at every resync: reads the CA of the certificates."""
    _retries: dict[Key, _Retry] = field(default_factory=dict)
    _rests: dict[Key, float] = field(default_factory=dict)
    _calms: dict[Key, _Calm] = field(default_factory=dict)
    _resync_at_s: float = 0.0
    _stuck_at_s: float = 0.0
    _checked_at_s: float = 0.0
    _is_fresh: bool = False

    def __post_init__(self) -> None:
        self.verifier = ReportVerifier(self.cache, self.client, self.clock)
        self.fabric_handler = FabricNodeHandler(
            cache=self.cache, clock=self.clock, heartbeats=self.heartbeats
        )
        self.losses = NodeLossDetector(
            cache=self.cache,
            client=self.client,
            clock=self.clock,
            heartbeats=self.heartbeats,
            observe_fabric=self.fabric_handler.read,
            forget_fabric=self.fabric_handler.gone,
        )
        self.deletion_check = DeletionCheck(
            cache=self.cache,
            client=self.client,
            clock=self.clock,
            observe_fabric=self.fabric_handler.read,
            forget_fabric=self.fabric_handler.gone,
        )

    def lead(self, sign_of_life: Heartbeat | None = None) -> None:
        """Decide and write until ``stopping``; the caches must be synced."""
        now_s = self.clock.monotonic()
        is_known = self.reconciler.released.read(self.client, self.clock)
        self.reconciler.adopt(now_s)
        if not is_known:
            self.reconciler.close_numbers(now_s)
        self.writer.run(self.reconciler.tell_isolation(self._now()))
        self._refresh()
        self.cache.mark_all()
        self._resync_at_s, self._stuck_at_s = now_s + RESYNC_S, now_s + STUCK_S
        while not self.stopping.is_set():
            if sign_of_life is not None:
                sign_of_life.beat()
            self._wait()
            self._tick()
            self.step()
            if self.cache.report_states.pending:
                self.verifier.wake()

    def step(self) -> int:
        """Carry out what is due now; returns the number of decisions with writes."""
        keys = self._free(self.cache.take(BATCH))
        if not keys:
            return 0
        now = self._now()
        decided = self.reconciler.decide(keys, now)
        for key in set(keys) - {group.key for group in decided}:
            self._retries.pop(key, None)  # nothing is left to do: what failed has been overtaken
            self._calms.pop(key, None)
        groups = [
            sure
            for group in decided
            for sure in ([group] if group.ends is None else self._make_sure(group, group.ends, now))
        ]
        groups = [urgent for group in groups if (urgent := self._urgent(group, now)).writes]
        if groups:
            self._learn(self.writer.run(groups))
        for key, calm in self._calms.items():
            self._retries.setdefault(key, _Retry(calm.ends_s(), 0)).at_s = calm.ends_s()
        return len(groups)

    def _now(self) -> Now:
        return Now(self.clock.monotonic(), format_time(self.clock.wall()))

    def _urgent(self, group: Plan, now: Now) -> Plan:
        """The group without the writes that wait for more of their kind; they will be decided again."""
        urgent = tuple(write for write in group.writes if write.is_urgent)
        if len(urgent) == len(group.writes):
            return group
        calm = self._calms.setdefault(group.key, _Calm(now.monotonic_s, now.monotonic_s))
        if urgent:
            calm.last_s = now.monotonic_s
        if now.monotonic_s >= calm.ends_s():
            del self._calms[group.key]
            return group
        return replace(group, writes=urgent)

    def has_put_off(self) -> bool:
        """Whether writes wait for more of their kind."""
        rests = (key for key, retry in self._retries.items() if retry.at_s < math.inf)
        return bool(self._calms) or any(key in self._rests for key in rests)

    def _free(self, keys: list[Key]) -> list[Key]:
        """Those that may be decided now; domains rest between two writes of their status."""
        now_s = self.clock.monotonic()
        free = []
        for key in keys:
            until_s = self._rests.get(key, 0.0)
            domain = self.cache.domains.get(key.name) if key.kind is Kind.DOMAIN else None
            if until_s > now_s and domain is not None and not domain.is_deleting:
                self._retries.setdefault(key, _Retry(until_s, 0)).at_s = until_s
            else:
                free.append(key)
        return free

    def _rest(self, group: Plan) -> None:
        if group.key.kind is not Kind.DOMAIN:
            return
        domain = self.cache.domains.get(group.key.name)
        count = len(domain.status.nodes) if domain is not None and not domain.is_deleting else 0
        if count > 1:
            pause_s = max(REST_S, min(REST_LIMIT_S, count * REST_S_A_NODE))
            self._rests[group.key] = self.clock.monotonic() + pause_s
        else:
            self._rests.pop(group.key, None)

    def _make_sure(self, group: Plan, domain: DomainView, now: Now) -> list[Plan]:
        """Read who holds a domain that is about to go, and decide again with what is there."""
        try:
            self.deletion_check.read(domain)
        except ApiError as error:
            self._fail(group, None, error)
            return []
        return self.reconciler.decide([group.key], now)

    def _wait(self) -> None:
        with self.cache.changed:
            if not self.cache.due():
                next_s = min((retry.at_s for retry in self._retries.values()), default=math.inf)
                self.cache.changed.wait(min(TICK_S, max(0.0, next_s - self.clock.monotonic())))
        if self.cache.due():
            self.clock.wait(self.stopping, self.gather_s)

    def _tick(self) -> None:
        """What happens by the clock."""
        now_s = self.clock.monotonic()
        ripe = [key for key, retry in self._retries.items() if retry.at_s <= now_s]
        if ripe:
            for key in ripe:
                self._retries[key].at_s = math.inf
            self.cache.mark(*ripe)
        if now_s - self._checked_at_s >= TICK_S:
            self._checked_at_s = now_s
            self.fabric_handler.take_held()
            self.losses.look()
        if now_s >= self._stuck_at_s:
            self._stuck_at_s = now_s + STUCK_S
            self._look_at_stuck()
            self.verifier.look_again()
            is_another = self.reconciler.switch_isolation(now_s)
            if is_another or (not self._is_fresh and self._refresh()):
                self.cache.mark_all()
        if now_s >= self._resync_at_s:
            self._resync_at_s = now_s + RESYNC_S
            self._refresh()
            self.cache.mark_all()

    def _refresh(self) -> bool:
        try:
            self.refresh()
        except ApiError as error:
            _LOG.warning("cannot read or write the CA of IMEX peers; trying again", error)
            self._is_fresh = False
        else:
            self._is_fresh = True
        return self._is_fresh

    def _look_at_stuck(self) -> None:
        """A full clique whose slots cool off, a template's name or a number that becomes free, a report that
        holds a domain and that no claim confirms: no event says so.
        """
        with self.cache.lock:
            domains = self.cache.domains.values()
            waiting = (d.uid for d in domains if d.is_deleting or d.status.assignment is None)
            self.cache.mark(*(Key(Kind.DOMAIN, uid) for uid in waiting))
            self.cache.mark(*(self.cache.home_key(name) for name in self.cache.full))
            cold = self.cache.cooling.cold(self.clock.monotonic())
            self.cache.mark(*(Key(Kind.CLIQUE, clique_id) for clique_id in cold))
            self.cache.mark(*(Key(Kind.DOMAIN, uid) for uid in self.cache.template_problems))

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            for write, stored in outcome.stored:
                if stored is not None:
                    self.schemas.look(write, stored)
                self._take_over(write, stored)
            self._rest(outcome.group)
            if outcome.error is None:
                self._retries.pop(outcome.group.key, None)
            else:
                self._fail(outcome.group, outcome.failed, outcome.error)

    def _take_over(self, write: Write, stored: JsonObject | None) -> None:
        plural = write.key[0]
        if stored is None or decode.is_over(stored):
            self._forget(write)
        elif plural == "fabricnodes":
            self.fabric_handler.read(stored)
        elif plural == "computedomains":
            self.cache.put_domain(decode.domain(stored))
        elif plural == "resourceclaimtemplates":
            self.cache.put_template(decode.template(stored))
        elif plural == "computedomaincliques":
            self.cache.put_clique(decode.clique(stored))
        elif plural == "configmaps":
            self.reconciler.released.note(stored)

    def _forget(self, write: Write) -> None:
        """The object is not there any more, or goes now."""
        plural, namespace, name = write.key
        uid = write.uid if isinstance(write, Delete) else _uid_of(write)
        if isinstance(write, Delete) and plural == TEMPLATES.plural:
            template = self.cache.templates.get(f"{namespace}/{name}")
            is_held = template is not None and bool(template.finalizers)
            if is_held:
                return  # by somebody else's finalizer; our watch will tell
        if uid:
            self.cache.tombstone(uid)
        if plural == "fabricnodes":
            self.fabric_handler.gone(name, uid)
        elif plural == "computedomains":
            self.cache.drop_domain(f"{namespace}/{name}", uid)
        elif plural == "resourceclaimtemplates":
            self.cache.drop_template(f"{namespace}/{name}", uid)
        elif plural == "computedomaincliques":
            self.cache.drop_clique(name, uid)
        elif plural == "configmaps":
            self.reconciler.released.note(None)

    def _fail(self, group: Plan, write: Write | None, error: ApiError) -> None:
        if isinstance(write, Create) and write.resource == TEMPLATES:
            self._fail_template(group.key, write, error)
        elif isinstance(write, Create) and error.status == 409:
            self._find(write)
        retry = self._retries.get(group.key)
        failures = retry.failures + 1 if retry else 0
        pause_s = max(self.backoff.pause_s(failures), error.retry_after_s or 0.0)
        self._retries[group.key] = _Retry(self.clock.monotonic() + pause_s, failures)
        _LOG.warning(
            "a write failed; it will be tried again", error,
            what=f"{group.key.kind.value} {group.key.name}", again_s=f"{pause_s:.1f}",
        )  # fmt: skip

    def _find(self, write: Create) -> None:
        """What we wanted to make is there: our watch has not told us yet."""
        try:
            found = self.client.get(write.resource, write.key[2], namespace=write.key[1])
        except ApiError as error:
            _LOG.info("cannot read what is there already", v=2, error=error)
            return
        self._take_over(write, found)

    def _fail_template(self, key: Key, write: Create, error: ApiError) -> None:
        """Say it in the domain's conditions: upstream's users saw a pod that never started."""
        problem = Problem("CreateFailed", f"the API server refused the template: {error}")
        if error.status == 409:
            _, namespace, name = write.key
            found = self._read_template(namespace, name)
            if found is not None and decode.template(found).domain_uid == key.name:
                self.cache.put_template(decode.template(found))
                return
            problem = Problem(
                "NameTaken",
                f"the ResourceClaimTemplate {name} is there and is not of this domain "
                f"(label {DOMAIN_LABEL}); delete it, or use another name",
            )
        with self.cache.lock:
            if self.cache.template_problems.get(key.name) != problem:
                self.cache.template_problems[key.name] = problem

    def _read_template(self, namespace: str, name: str) -> JsonObject | None:
        try:
            return self.client.get(TEMPLATES, name, namespace=namespace)
        except ApiError as error:
            _LOG.info("cannot read the template that is in the way", v=2, error=error)
            return None


def _uid_of(write: Write) -> str:
    """Of the object that a patch is for."""
    return str(write.patch["metadata"].get("uid") or "") if isinstance(write, Merge) else ""
