"""Decides the writes of due keys: gathers a snapshot per key, calls ``decide``, and keeps the allocation of numbers.

Called by ``controller`` in one thread. Sends nothing to the API: a failed write is decided again from the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter

from nvdra_cluster.control.released_numbers import ReleasedNumbers
from nvdra_cluster.control.snapshots import SnapshotBuilder
from nvdra_cluster.control.state.cache import Cache, Key, Kind
from nvdra_cluster.decide import assignments, isolation
from nvdra_cluster.decide.domain import cliques, lifecycle, templates
from nvdra_cluster.decide.domain.reports import UnverifiedReport
from nvdra_cluster.decide.model import DomainView
from nvdra_cluster.decide.node import fabricnodes, nodespecs, slots
from nvdra_cluster.decide.node.nodespecs import CertificateRequest
from nvdra_cluster.decide.number_allocator import NumberAllocator, name_of
from nvdra_cluster.decide.writes import DOMAINS, Write
from nvdra_cluster.settings import MAX_CHANNELS, FabricSettings, ImexMode
from nvdra_core.api import ComputeDomainAssignment, FabricCertificate, Isolation
from nvdra_core.runtime import log

_LOG = log.get(__name__)


class CertificateIssuer(Protocol):
    """Answers the certificate requests of a decision."""

    def issue(self, requests: Sequence[CertificateRequest]) -> dict[str, FabricCertificate]:
        """New certificates by node; nodes whose certificate stays are left out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The writes of one key, in order; after a failed one the others are decided again later."""

    key: Key
    writes: tuple[Write, ...]
    ends: DomainView | None = None
    """The domain whose finalizer these writes remove. Its holders must be read from the API first: a watch may lag,
    and this cannot be undone.
    """


@dataclass(frozen=True, slots=True)
class Now:
    """The time of a decision."""

    monotonic_s: float
    text: str
    """RFC 3339."""


class Reconciler:
    """See the module."""

    def __init__(
        self,
        cache: Cache,
        settings: FabricSettings,
        registry: CollectorRegistry,
        issuer: CertificateIssuer | None = None,
    ) -> None:
        """``issuer``: None where IMEX peers use no certificates; existing ones stay."""
        self._failures = Counter(
            "nvdra_controller_decision_failures_total",
            "Decisions that failed because of a bug, by what they were about.",
            ("what",),
            registry=registry,
        )
        self._cache = cache
        self._wanted = self._settings = settings
        self._issuer = issuer
        self._numbers = NumberAllocator(settings)
        self.released = ReleasedNumbers(
            settings.namespace, is_used=settings.mode is not ImexMode.HOST_MANAGED
        )

    def adopt(self, now_s: float) -> None:
        """Take over the recorded ports and channels. Before the first ``decide``, after ``released`` was read.

        The specs of nodes take precedence: only the controller writes them. Domains that were deleted count too;
        the decision about each says whether a node still holds it.
        """
        cache = self._cache
        with cache.lock:
            recorded = self._recorded()
            self._settings = self._in_force(recorded)
            self._numbers = NumberAllocator(self._settings)
            for uid, (found, _) in cache.retired.items():
                recorded.setdefault(uid, []).append(found)
            for domain in sorted(cache.domains.values(), key=lambda d: (d.created, d.uid)):
                own = domain.status.assignment
                known = [*recorded.get(domain.uid, []), *([own] if own else [])]
                self._numbers.adopt(domain.uid, known, now_s)
            for uid in sorted(recorded.keys() - cache.domains.keys()):
                self._numbers.adopt(uid, recorded[uid], now_s)
                cache.enqueue(Key(Kind.DOMAIN, uid))
            self._numbers.reserve(self.released.recent(), now_s)

    def suspend_allocation(self, now_s: float) -> None:
        """Allocate no number for a while: the recently released ones are unknown."""
        self._numbers.suspend(now_s)

    def _recorded(self) -> dict[str, list[ComputeDomainAssignment]]:
        """The numbers of each domain in the specs of nodes."""
        recorded: dict[str, list[ComputeDomainAssignment]] = {}
        for view in self._cache.fabrics.values():
            for one in view.spec.domains:
                found = ComputeDomainAssignment(
                    isolation=one.isolation, port=one.port, channel=one.channel
                )
                recorded.setdefault(one.uid, []).append(found)
        return recorded

    def _in_force(self, recorded: dict[str, list[ComputeDomainAssignment]]) -> FabricSettings:
        own = (domain.status.assignment for domain in self._cache.domains.values())
        known = [one for found in recorded.values() for one in found]
        return isolation.in_force(self._wanted, [*known, *(one for one in own if one is not None)])

    def report_isolation(self, now: Now) -> list[Plan]:
        """Log and emit events when the isolation setting is not applied yet."""
        if self._settings == self._wanted:
            return []
        with self._cache.lock:
            found = sorted(self._cache.domains.values(), key=lambda domain: domain.path)
        text = isolation.message(self._wanted, self._settings)
        _LOG.warning(text, domains=len(found), first=", ".join(d.path for d in found[:5]))
        writes = isolation.events_for(found, text, now.text)
        return [Plan(Key(Kind.DOMAIN, ""), tuple(writes))] if writes else []

    def switch_isolation(self, now_s: float) -> bool:
        """Apply the isolation setting once no domain of the old one is left; whether that happened now."""
        with self._cache.lock:
            if self._settings == self._wanted or self._in_force(self._recorded()) != self._wanted:
                return False
            self.adopt(now_s)
        _LOG.info("isolation setting applied", isolation=self._wanted.isolation.value)
        return True

    def decide(self, keys: Sequence[Key], now: Now) -> list[Plan]:
        """The writes for these keys; domains first, as the specs of nodes carry their numbers."""
        plans: list[Plan] = []
        for key in sorted(keys, key=lambda key: key.kind is not Kind.DOMAIN):
            plan = self._plan(key, now)
            if plan is not None and plan.writes:
                plans.append(plan)
        return plans

    def _plan(self, key: Key, now: Now) -> Plan | None:
        """One decision; None when it failed because of a bug."""
        try:
            with self._cache.lock:
                found = self._builder(now)
                writes = self._decide(key, found, now)
                self._request_verification(found.unverified)
                return Plan(key, tuple(writes), self._ended(key, writes))
        except Exception as error:  # noqa: BLE001 - one odd object must not stop the controller
            _LOG.error(
                "decision failed; object left unchanged", error, kind=key.kind.value, key=key.name
            )
            self._failures.labels(key.kind.value).inc()
            return None

    def _builder(self, now: Now) -> SnapshotBuilder:
        return SnapshotBuilder(self._cache, self._settings, self._numbers.of, now.monotonic_s)

    def _request_verification(self, unverified: Iterable[UnverifiedReport]) -> None:
        for one in unverified:
            pair = (one.node, one.domain_uid)
            self._cache.report_states.request(pair, is_urgent=one.is_urgent)

    def _ended(self, key: Key, writes: Iterable[Write]) -> DomainView | None:
        domain = self._cache.domains.get(key.name) if key.kind is Kind.DOMAIN else None
        if domain is None or not domain.is_deleting:
            return None
        return domain if any(write.resource == DOMAINS for write in writes) else None

    def _decide(self, key: Key, found: SnapshotBuilder, now: Now) -> list[Write]:
        if key.kind is Kind.NODE:
            return self._node(key.name, now)
        if key.kind is not Kind.DOMAIN:
            return self._specs(key, found)
        domain = self._cache.domains.get(key.name)
        if domain is None:
            return self._orphans(key.name, found, now)
        return self._domain(domain, found, now)

    def _domain(self, domain: DomainView, found: SnapshotBuilder, now: Now) -> list[Write]:
        uid, own = domain.uid, domain.status.assignment
        is_new = self._numbers.of(uid) is None
        self._numbers.adopt(uid, [own] if own else [], now.monotonic_s)
        assignment = None
        if domain.spec is not None:
            count = self._channel_count() if self._numbers.of(uid) is None else MAX_CHANNELS
            assignment = self._numbers.ensure(uid, now.monotonic_s, count)
        if is_new and assignment is not None:
            self._cache.enqueue_members(uid)
        snapshot = found.domain(domain, assignment, self._numbers.problem(now.monotonic_s))
        writes = lifecycle.reconcile(snapshot, self._settings, now.text)
        if self._ended(Key(Kind.DOMAIN, uid), writes) is not None:
            writes[-1:-1] = self._record(assignment, now)  # before the finalizer
        return writes

    def _orphans(self, uid: str, found: SnapshotBuilder, now: Now) -> list[Write]:
        """Remove what a deleted domain left behind."""
        cache = self._cache
        recorded: list[Write] = []
        if self._numbers.of(uid) is not None and not found.is_number_held(uid):
            recorded = self._record(self._numbers.of(uid), now)
            self._numbers.release(uid, now.monotonic_s)
        views = [cache.templates[path] for path in sorted(cache.templates_of.get(uid))]
        ours = [view for view in views if templates.is_ours(view)]
        writes = [write for view in ours for write in templates.remove(view)]
        left = [cache.cliques[name] for name in sorted(cache.cliques_of.get(uid))]
        return recorded + writes + cliques.remove(left, self._settings)

    def _record(self, assignment: ComputeDomainAssignment | None, now: Now) -> list[Write]:
        """The write, if any, that makes the reuse delay of a released number survive this process."""
        name = name_of(assignment) if assignment is not None else ""
        if not name or self.released.has(name, now.text):
            return []
        return [self.released.add(name, now.text)]

    def _channel_count(self) -> int:
        if self._settings.isolation is not Isolation.CHANNEL:
            return MAX_CHANNELS
        views = self._cache.fabrics.values()
        return assignments.channel_limit(view for view in views if view.name in self._cache.nodes)

    def _node(self, name: str, now: Now) -> list[Write]:
        cache = self._cache
        return fabricnodes.reconcile(
            name,
            cache.nodes.get(name),
            cache.fabrics.get(name),
            has_devices=bool(cache.slices_of.get(name)),
            slot=cache.reuse_delays.of(name, now.monotonic_s),
        )

    def _specs(self, key: Key, found: SnapshotBuilder) -> list[Write]:
        cache = self._cache
        clique_id = key.name if key.kind is Kind.CLIQUE else ""
        names = cache.in_clique.get(clique_id) if clique_id else {key.name}
        snapshot = found.nodes(clique_id, names)
        plan = nodespecs.reconcile(snapshot, self._settings)
        issued = self._issuer.issue(plan.certificate_requests) if self._issuer else {}
        if issued:
            plan = nodespecs.reconcile(replace(snapshot, certificates=issued), self._settings)
        here = [view.name for view in snapshot.clique.nodes if slots.home(view) == clique_id]
        cache.set_slotless(plan.slots.full, snapshot.clique.outsiders, here)
        return list(plan.writes)
