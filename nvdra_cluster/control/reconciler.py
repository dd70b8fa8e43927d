"""Due decisions in, writes out: gathers a snapshot for each key, asks ``decide``, and keeps its books.

Called by ``loop`` in one thread. Nothing here talks to the API; a write that fails is asked for
again, because it follows from what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry, Counter

from nvdra_cluster.control.released_numbers import ReleasedNumbers
from nvdra_cluster.control.reports import holds_nothing, holds_numbers, is_believed
from nvdra_cluster.control.state.cache import Cache, Key, Kind
from nvdra_cluster.decide import assignments, isolation
from nvdra_cluster.decide.domain import cliques, lifecycle, templates
from nvdra_cluster.decide.model import (
    ClaimView,
    DomainSnapshot,
    DomainView,
    FabricView,
    MemberView,
    TemplateView,
)
from nvdra_cluster.decide.node import fabricnodes, nodespecs, racks, slots
from nvdra_cluster.decide.node.nodespecs import Certify, Membership, NodesSnapshot
from nvdra_cluster.decide.node.slots import CliqueSnapshot
from nvdra_cluster.decide.number_allocator import Numbers, name_of
from nvdra_cluster.decide.writes import DOMAINS, Write
from nvdra_cluster.settings import MAX_CHANNELS, FabricSettings, ImexMode
from nvdra_core.api import ComputeDomainAssignment, FabricDomain, Isolation
from nvdra_core.runtime import log

_LOG = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """The writes of one decision, in order; when one fails the rest waits for the next time."""

    key: Key
    writes: tuple[Write, ...]
    ends: DomainView | None = None
    """The domain that these writes let go. Who may hold it must be read once more before: a watch may be
    behind, and this cannot be undone.
    """


@dataclass(frozen=True, slots=True)
class Now:
    """The time, as the decisions need it."""

    monotonic_s: float
    text: str
    """RFC 3339."""


class Reconciler:
    """See the module."""

    def __init__(
        self, cache: Cache, settings: FabricSettings, certify: Certify, registry: CollectorRegistry
    ) -> None:
        self._failures = Counter(
            "nvdra_controller_decision_failures_total",
            "Decisions that failed because of a bug, by what they were about.",
            ("what",),
            registry=registry,
        )
        self._cache = cache
        self._wanted = self._settings = settings
        self._certify = certify
        self._numbers = Numbers(settings)
        self.released = ReleasedNumbers(
            settings.namespace, is_used=settings.mode is not ImexMode.HOST_MANAGED
        )

    def adopt(self, now_s: float) -> None:
        """Take over the ports and channels that the objects record. Before the first ``decide``, and after
        ``released`` was read.

        What nodes were told comes first: nobody but the controller writes it. Domains that are gone count
        too; the decision about each says whether somebody still holds it.
        """
        cache = self._cache
        with cache.lock:
            recorded = self._told()
            self._settings = self._in_force(recorded)
            self._numbers = Numbers(self._settings)
            for uid, (found, _) in cache.retired.items():
                recorded.setdefault(uid, []).append(found)
            for domain in sorted(cache.domains.values(), key=lambda d: (d.created, d.uid)):
                own = domain.status.assignment
                known = [*recorded.get(domain.uid, []), *([own] if own else [])]
                self._numbers.adopt(domain.uid, known, now_s)
            for uid in sorted(recorded.keys() - cache.domains.keys()):
                self._numbers.adopt(uid, recorded[uid], now_s)
                cache.mark(Key(Kind.DOMAIN, uid))
            self._numbers.cool(self.released.recent(), now_s)

    def close_numbers(self, now_s: float) -> None:
        """Give out no number for a while: which ones were released lately is not known."""
        self._numbers.close(now_s)

    def _told(self) -> dict[str, list[ComputeDomainAssignment]]:
        """What nodes were told of each domain."""
        recorded: dict[str, list[ComputeDomainAssignment]] = {}
        for view in self._cache.fabrics.values():
            for one in view.spec.domains:
                found = ComputeDomainAssignment(
                    isolation=one.isolation, port=one.port, channel=one.channel
                )
                recorded.setdefault(one.uid, []).append(found)
        return recorded

    def _in_force(self, told: dict[str, list[ComputeDomainAssignment]]) -> FabricSettings:
        own = (domain.status.assignment for domain in self._cache.domains.values())
        known = [one for found in told.values() for one in found]
        return isolation.in_force(self._wanted, [*known, *(one for one in own if one is not None)])

    def tell_isolation(self, now: Now) -> list[Plan]:
        """Say that the isolation is not as it is set, if so, and why."""
        if self._settings == self._wanted:
            return []
        with self._cache.lock:
            found = sorted(self._cache.domains.values(), key=lambda domain: domain.path)
        text = isolation.message(self._wanted, self._settings)
        _LOG.warning(text, domains=len(found), first=", ".join(d.path for d in found[:5]))
        writes = isolation.tell(found, text, now.text)
        return [Plan(Key(Kind.DOMAIN, ""), tuple(writes))] if writes else []

    def switch_isolation(self, now_s: float) -> bool:
        """Take what is set once nothing of the old kind is left; returns whether that is now."""
        with self._cache.lock:
            if self._settings == self._wanted or self._in_force(self._told()) != self._wanted:
                return False
            self.adopt(now_s)
        _LOG.info("isolation is as it is set", isolation=self._wanted.isolation.value)
        return True

    def decide(self, keys: Sequence[Key], now: Now) -> list[Plan]:
        """The writes for these keys; domains first, as the specs of nodes carry their numbers."""
        groups: list[Plan] = []
        for key in sorted(keys, key=lambda key: key.kind is not Kind.DOMAIN):
            group = self._group(key, now)
            if group is not None and group.writes:
                groups.append(group)
        return groups

    def _group(self, key: Key, now: Now) -> Plan | None:
        """One decision; None when we have a bug that this object shows."""
        try:
            with self._cache.lock:
                writes = self._decide(key, now)
                return Plan(key, tuple(writes), self._ended(key, writes))
        except Exception as error:  # noqa: BLE001 - upstream's controller died of one odd object
            _LOG.error(
                "cannot decide; it is left as it is", error, what=key.kind.value, key=key.name
            )
            self._failures.labels(key.kind.value).inc()
            return None

    def _ended(self, key: Key, writes: Iterable[Write]) -> DomainView | None:
        domain = self._cache.domains.get(key.name) if key.kind is Kind.DOMAIN else None
        if domain is None or not domain.is_deleting:
            return None
        return domain if any(write.resource == DOMAINS for write in writes) else None

    def _decide(self, key: Key, now: Now) -> list[Write]:
        if key.kind is Kind.DOMAIN:
            return self._domain(key.name, now)
        if key.kind is Kind.NODE:
            return self._node(key.name, now)
        return self._specs(key, now)

    def _domain(self, uid: str, now: Now) -> list[Write]:
        cache = self._cache
        domain = cache.domains.get(uid)
        if domain is None:
            return self._orphans(uid, now)
        is_new = self._numbers.of(uid) is None
        own = domain.status.assignment
        self._numbers.adopt(uid, [own] if own else [], now.monotonic_s)
        assignment = None
        if domain.spec is not None:
            count = self._channel_count() if self._numbers.of(uid) is None else MAX_CHANNELS
            assignment = self._numbers.ensure(uid, now.monotonic_s, count)
        if is_new and assignment is not None:
            cache.touch_members(uid)
        snapshot = DomainSnapshot(
            domain=domain,
            members=tuple(self._member(name) for name in sorted(self._members(domain))),
            reporters=tuple(
                self._reporter(domain, name) for name in sorted(cache.reporting.get(uid))
            ),
            claims=tuple(self._claims(domain)),
            templates=tuple(self._templates(domain)),
            cliques=tuple(cache.cliques[name] for name in sorted(cache.cliques_of.get(uid))),
            assignment=assignment,
            number_problem=self._numbers.problem(now.monotonic_s),
            template_problem=cache.template_problems.get(uid),
        )
        writes = lifecycle.reconcile(snapshot, self._settings, now.text)
        if self._ended(Key(Kind.DOMAIN, uid), writes) is not None:
            writes[-1:-1] = self._record(assignment, now)  # before the finalizer
        return writes

    def _orphans(self, uid: str, now: Now) -> list[Write]:
        """What a domain left behind that is gone."""
        cache = self._cache
        recorded: list[Write] = []
        if self._numbers.of(uid) is not None:
            near = cache.reporting.get(uid) | cache.lost
            if not any(holds_numbers(cache, name, uid) for name in near):
                recorded = self._record(self._numbers.of(uid), now)
                self._numbers.release(uid, now.monotonic_s)
        views = [cache.templates[path] for path in sorted(cache.templates_of.get(uid))]
        ours = [view for view in views if templates.is_ours(view)]
        writes = [write for view in ours for write in templates.remove(view)]
        left = [cache.cliques[name] for name in sorted(cache.cliques_of.get(uid))]
        return recorded + writes + cliques.remove(left, self._settings)

    def _record(self, assignment: ComputeDomainAssignment | None, now: Now) -> list[Write]:
        """The write, if any, that lets the number of a domain that goes cool also where this process ends."""
        name = name_of(assignment) if assignment is not None else ""
        if not name or self.released.has(name, now.text):
            return []
        return [self.released.add(name, now.text)]

    def _templates(self, domain: DomainView) -> Iterable[TemplateView]:
        """The domain's templates. One in another namespace is none, whatever its label says."""
        for path in sorted(self._cache.templates_of.get(domain.uid)):
            template = self._cache.templates[path]
            if template.namespace == domain.namespace:
                yield template

    def _channel_count(self) -> int:
        if self._settings.isolation is not Isolation.CHANNEL:
            return MAX_CHANNELS
        views = self._cache.fabrics.values()
        return assignments.channel_limit(view for view in views if view.name in self._cache.nodes)

    def _claims(self, domain: DomainView) -> Iterable[ClaimView]:
        """The domain's claims. A claim of another namespace is none, whatever its label says."""
        for path in sorted(self._cache.claims_of.get(domain.uid)):
            claim = self._cache.claims[path]
            if claim.namespace == domain.namespace:
                yield claim

    def _members(self, domain: DomainView) -> set[str]:
        """The nodes that take part: with a claim of the domain, or with a report that is believed."""
        names = {claim.node for claim in self._claims(domain) if claim.node}
        reporting = self._cache.reporting.get(domain.uid)
        return names | {
            name for name in reporting - names if is_believed(self._cache, domain, name)
        }

    def _takes_part(self, domain: DomainView, name: str) -> bool:
        """Whether one node does: as ``_members``, without a look at all the others."""
        cache = self._cache
        claims = (cache.claims[path] for path in cache.claims_on.get(name))
        if any(c.domain_uid == domain.uid and c.namespace == domain.namespace for c in claims):
            return True
        return name in cache.reporting.get(domain.uid) and is_believed(cache, domain, name)

    def _reporter(self, domain: DomainView, name: str) -> MemberView:
        """A node that reports the domain. Whether it may hold it matters only when the domain is to go."""
        is_refuted = domain.is_deleting and holds_nothing(self._cache, domain, name)
        return replace(self._member(name), is_refuted=is_refuted)

    def _member(self, name: str) -> MemberView:
        cache = self._cache
        node = cache.nodes.get(name)
        return MemberView(
            node=name,
            fabric=cache.fabrics.get(name),
            has_node=node is not None,
            is_lost=name in cache.lost,
            is_out_of_service=node is not None and node.is_out_of_service,
            is_full=name in cache.full,
            is_outsider=name in cache.outsiders,
        )

    def _node(self, name: str, now: Now) -> list[Write]:
        cache = self._cache
        offers = bool(cache.offering.get(name))
        node, fabric = cache.nodes.get(name), cache.fabrics.get(name)
        kept = cache.cooling.of(name, now.monotonic_s)
        return fabricnodes.reconcile(name, node, fabric, offers_devices=offers, slot=kept)

    def _specs(self, key: Key, now: Now) -> list[Write]:
        cache = self._cache
        clique_id = key.name if key.kind is Kind.CLIQUE else ""
        names = cache.in_clique.get(clique_id) if clique_id else {key.name}
        views = self._with_listed(clique_id, names)
        snapshot = NodesSnapshot(
            clique=self._clique(clique_id, views, now),
            joined={view.name: self._joined(view.name) for view in views},
            departed={view.name: self._departed(view) for view in views},
            lost={v.name: cache.last_heartbeats[v.name] for v in views if v.name in cache.lost},
            taken_elsewhere=frozenset(self._taken_elsewhere(views)),
        )
        writes, decision = nodespecs.reconcile(snapshot, self._settings, self._certify)
        here = [view.name for view in views if slots.home(view) == clique_id]
        cache.set_slotless(decision.full, snapshot.clique.outsiders, here)
        return writes

    def _with_listed(self, clique_id: str, names: Iterable[str]) -> tuple[FabricView, ...]:
        """The FabricNodes of these names, and of those in their lists of slots."""
        fabrics = self._cache.fabrics
        found = {name: fabrics[name] for name in names if name in fabrics}
        for listed in slots.lists(list(found.values()), clique_id) if clique_id else ():
            for entry in listed:
                if entry.node_name in fabrics:
                    found[entry.node_name] = fabrics[entry.node_name]
        return tuple(found[name] for name in sorted(found))

    def _clique(self, clique_id: str, views: tuple[FabricView, ...], now: Now) -> CliqueSnapshot:
        cache = self._cache
        listed = {
            entry.node_name: entry.index
            for slots_of_one in slots.lists(views, clique_id)
            for entry in slots_of_one
        }
        named = {view.name for view in views} | listed.keys()
        gone = {
            name: slot
            for name, slot in listed.items()
            if name not in cache.nodes and name not in cache.fabrics
        }
        return CliqueSnapshot(
            clique_id=clique_id,
            nodes=views,
            existing=frozenset(name for name in named if name in cache.nodes),
            out_of_service=frozenset(
                name
                for name in named
                if name in cache.nodes and cache.nodes[name].is_out_of_service
            ),
            outsiders=self._outsiders(clique_id, views),
            cooling=cache.cooling.look(clique_id, gone, now.monotonic_s),
            slot_count=self._settings.slot_count,
            has_shared_imex=self._settings.isolation is Isolation.CHANNEL,
        )

    def _outsiders(self, clique_id: str, views: Iterable[FabricView]) -> frozenset[str]:
        """Nodes of another rack than the clique's, where the administrator says which nodes are one."""
        if not self._settings.rack_label or not clique_id:
            return frozenset()
        nodes = self._cache.nodes
        here = [v for v in views if v.status.clique_id == clique_id and v.name in nodes]
        return racks.outsiders(here, {view.name: nodes[view.name].rack for view in here})

    def _joined(self, name: str) -> tuple[Membership, ...]:
        """The domains that a node takes part in."""
        cache = self._cache
        uids = {cache.claims[path].domain_uid for path in cache.claims_on.get(name)}
        view = cache.fabrics.get(name)
        if view is not None:
            uids |= {report.uid for report in view.status.domains}
        joined = []
        for uid in sorted(uids):
            domain, numbers = cache.domains.get(uid), self._numbers.of(uid)
            if domain is not None and numbers is not None and self._takes_part(domain, name):
                joined.append(Membership(domain=domain, assignment=numbers))
        return tuple(joined)

    def _departed(self, view: FabricView) -> tuple[FabricDomain, ...]:
        """Domains that are gone, and that the node was told of and still has claims of."""
        return tuple(
            one
            for one in view.spec.domains
            if one.uid not in self._cache.domains and holds_numbers(self._cache, view.name, one.uid)
        )

    def _taken_elsewhere(self, views: Iterable[FabricView]) -> Iterable[tuple[str, str, int]]:
        """Former slots of these nodes that another node has now."""
        for view in views:
            for former in view.spec.former_slots:
                for other in self._cache.in_clique.get(former.clique_id) - {view.name}:
                    spec = self._cache.fabrics[other].spec
                    if spec.clique_id == former.clique_id and spec.slot == former.index:
                        yield (view.name, former.clique_id, former.index)
