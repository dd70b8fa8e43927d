"""Gathers what one decision depends on from the cache, as frozen snapshots. Called by ``reconciler``, cache locked.

``unverified`` collects the reports that no watched claim confirms, for the reconciler to have them verified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from nvdra_cluster.control.state.cache import Cache
from nvdra_cluster.decide.domain import readiness, reports
from nvdra_cluster.decide.domain.reports import Judgement, ReportEvidence, UnverifiedReport
from nvdra_cluster.decide.model import (
    ClaimView,
    DomainSnapshot,
    DomainView,
    FabricView,
    MemberView,
    TemplateView,
)
from nvdra_cluster.decide.node import racks, slots
from nvdra_cluster.decide.node.nodespecs import Membership, NodesSnapshot
from nvdra_cluster.decide.node.slots import CliqueSnapshot
from nvdra_cluster.settings import FabricSettings
from nvdra_core.api import ComputeDomainAssignment, FabricDomain, Isolation
from nvdra_core.api.fabric import domain_named

AssignmentOf = Callable[[str], ComputeDomainAssignment | None]


@dataclass(slots=True)
class SnapshotBuilder:
    """See the module; one per decision."""

    cache: Cache
    settings: FabricSettings
    assignment_of: AssignmentOf
    now_s: float
    unverified: list[UnverifiedReport] = field(default_factory=list)

    def domain(
        self,
        domain: DomainView,
        assignment: ComputeDomainAssignment | None,
        number_problem: str,
    ) -> DomainSnapshot:
        """Everything about one domain."""
        cache, uid = self.cache, domain.uid
        return DomainSnapshot(
            domain=domain,
            members=tuple(self._member(name) for name in sorted(self._members(domain))),
            reporters=tuple(
                self._reporter(domain, name) for name in sorted(cache.reporting.get(uid))
            ),
            claims=tuple(self._claims(domain)),
            templates=tuple(self._templates(domain)),
            cliques=tuple(cache.cliques[name] for name in sorted(cache.cliques_of.get(uid))),
            assignment=assignment,
            number_problem=number_problem,
            template_problem=cache.template_problems.get(uid),
        )

    def nodes(self, clique_id: str, names: Iterable[str]) -> NodesSnapshot:
        """Everything about the specs of a clique's nodes; ``clique_id`` is empty for a node without fabric."""
        cache = self.cache
        views = self._with_listed(clique_id, names)
        return NodesSnapshot(
            clique=self._clique(clique_id, views),
            memberships={view.name: self._memberships(view.name) for view in views},
            departed={view.name: self._departed(view) for view in views},
            lost={v.name: cache.last_heartbeats[v.name] for v in views if v.name in cache.lost},
            taken_elsewhere=frozenset(self._taken_elsewhere(views)),
        )

    def is_number_held(self, uid: str) -> bool:
        """Whether a node may still use the number of a deleted domain."""
        near = self.cache.reporting.get(uid) | self.cache.lost
        return any(self._holds_number(name, uid) for name in near)

    def _templates(self, domain: DomainView) -> Iterable[TemplateView]:
        """The domain's templates; labels of templates in other namespaces are ignored."""
        for path in sorted(self.cache.templates_of.get(domain.uid)):
            template = self.cache.templates[path]
            if template.namespace == domain.namespace:
                yield template

    def _claims(self, domain: DomainView) -> Iterable[ClaimView]:
        """The domain's claims; labels of claims in other namespaces are ignored."""
        for path in sorted(self.cache.claims_of.get(domain.uid)):
            claim = self.cache.claims[path]
            if claim.namespace == domain.namespace:
                yield claim

    def _members(self, domain: DomainView) -> set[str]:
        """Nodes with a claim of the domain, or with a report that counts."""
        names = {claim.node for claim in self._claims(domain) if claim.node}
        reporting = self.cache.reporting.get(domain.uid)
        return names | {
            name for name in reporting - names if self._reports_membership(domain, name)
        }

    def _is_member(self, domain: DomainView, name: str) -> bool:
        """``name in _members(domain)``, without visiting all nodes of the domain."""
        if self._has_watched_claim(domain, name):
            return True
        reporting = self.cache.reporting.get(domain.uid)
        return name in reporting and self._reports_membership(domain, name)

    def _reports_membership(self, domain: DomainView, name: str) -> bool:
        return self._counts(reports.as_member(self._evidence(name, domain.uid, domain)))

    def _reporter(self, domain: DomainView, name: str) -> MemberView:
        """A node that reports the domain. Whether the report holds the domain matters only for a deletion."""
        member = self._member(name)
        if not domain.is_deleting:
            return member
        is_holder = self._counts(reports.as_holder(self._evidence(name, domain.uid, domain)))
        return replace(member, is_refuted=not is_holder)

    def _holds_number(self, name: str, uid: str) -> bool:
        node = self.cache.nodes.get(name)
        if name not in self.cache.fabrics or (node is not None and node.is_out_of_service):
            return False
        return self._counts(reports.as_number_holder(self._evidence(name, uid, None)))

    def _counts(self, judgement: Judgement) -> bool:
        if judgement.unverified is not None:
            self.unverified.append(judgement.unverified)
        return judgement.counts

    def _evidence(self, name: str, uid: str, domain: DomainView | None) -> ReportEvidence:
        """The evidence for a node's report; ``domain`` is None for one that was deleted."""
        view, states, pair = self.cache.fabrics[name], self.cache.report_states, (name, uid)
        report = readiness.report_of(view, uid)
        claims = report.claims if report is not None else ()
        refuted_at_s = states.refuted.get(pair)
        return ReportEvidence(
            node=name,
            domain_uid=uid,
            has_claims=any(domain is None or c.namespace == domain.namespace for c in claims),
            is_watched=domain is not None and self._has_watched_claim(domain, name),
            is_assigned=domain_named(view.spec, uid) is not None,
            was_assigned=states.was_assigned(pair, self.now_s),
            is_confirmed=pair in states.confirmed,
            refuted_s=None if refuted_at_s is None else self.now_s - refuted_at_s,
            is_lost=name in self.cache.lost,
        )

    def _has_watched_claim(self, domain: DomainView, name: str) -> bool:
        claims = (self.cache.claims[path] for path in self.cache.claims_on.get(name))
        return any(c.domain_uid == domain.uid and c.namespace == domain.namespace for c in claims)

    def _member(self, name: str) -> MemberView:
        cache = self.cache
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

    def _with_listed(self, clique_id: str, names: Iterable[str]) -> tuple[FabricView, ...]:
        """The FabricNodes of these names, and of those in their slot lists."""
        fabrics = self.cache.fabrics
        found = {name: fabrics[name] for name in names if name in fabrics}
        for listed in slots.lists(list(found.values()), clique_id) if clique_id else ():
            for entry in listed:
                if entry.node_name in fabrics:
                    found[entry.node_name] = fabrics[entry.node_name]
        return tuple(found[name] for name in sorted(found))

    def _clique(self, clique_id: str, views: tuple[FabricView, ...]) -> CliqueSnapshot:
        nodes, fabrics = self.cache.nodes, self.cache.fabrics
        listed = {
            entry.node_name: entry.index for one in slots.lists(views, clique_id) for entry in one
        }
        named = {view.name for view in views} | listed.keys()
        stale = {
            name: slot for name, slot in listed.items() if name not in nodes and name not in fabrics
        }
        return CliqueSnapshot(
            clique_id=clique_id,
            nodes=views,
            existing=frozenset(name for name in named if name in nodes),
            out_of_service=frozenset(
                name for name in named if name in nodes and nodes[name].is_out_of_service
            ),
            outsiders=self._outsiders(clique_id, views),
            reserved=self.cache.reuse_delays.in_clique(clique_id, stale, self.now_s),
            slot_count=self.settings.slot_count,
            has_shared_imex=self.settings.isolation is Isolation.CHANNEL,
        )

    def _outsiders(self, clique_id: str, views: Iterable[FabricView]) -> frozenset[str]:
        """Nodes of another rack than the clique's, where a rack label is set."""
        if not self.settings.rack_label or not clique_id:
            return frozenset()
        nodes = self.cache.nodes
        here = [v for v in views if v.status.clique_id == clique_id and v.name in nodes]
        return racks.outsiders(here, {view.name: nodes[view.name].rack for view in here})

    def _memberships(self, name: str) -> tuple[Membership, ...]:
        """The domains that a node takes part in."""
        cache = self.cache
        uids = {cache.claims[path].domain_uid for path in cache.claims_on.get(name)}
        view = cache.fabrics.get(name)
        if view is not None:
            uids |= {report.uid for report in view.status.domains}
        found = []
        for uid in sorted(uids):
            domain, assignment = cache.domains.get(uid), self.assignment_of(uid)
            if domain is not None and assignment is not None and self._is_member(domain, name):
                found.append(Membership(domain=domain, assignment=assignment))
        return tuple(found)

    def _departed(self, view: FabricView) -> tuple[FabricDomain, ...]:
        """Deleted domains in the node's spec that it still has claims of."""
        return tuple(
            one
            for one in view.spec.domains
            if one.uid not in self.cache.domains and self._holds_number(view.name, one.uid)
        )

    def _taken_elsewhere(self, views: Iterable[FabricView]) -> Iterable[tuple[str, str, int]]:
        """Former slots of these nodes that another node has now."""
        for view in views:
            for former in view.spec.former_slots:
                for other in self.cache.in_clique.get(former.clique_id) - {view.name}:
                    spec = self.cache.fabrics[other].spec
                    if spec.clique_id == former.clique_id and spec.slot == former.index:
                        yield (view.name, former.clique_id, former.index)
