"""The ``spec`` of every FabricNode of a clique: slots, domains, heartbeat interval, certificate. Pure.

One clique at a time, because all its nodes get the same list of slots; a node without a clique is decided alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from nvdra_cluster.decide.model import DomainView, FabricView
from nvdra_cluster.decide.node import slots
from nvdra_cluster.decide.node.slots import CliqueDecision, CliqueSnapshot
from nvdra_cluster.decide.writes import FABRIC_NODES, Merge, Write
from nvdra_cluster.settings import FabricSettings, ImexMode
from nvdra_core.api import (
    ComputeDomainAssignment,
    FabricCertificate,
    FabricDomain,
    FabricNodeSpec,
    FabricSlot,
    FormerSlot,
    Isolation,
)
from nvdra_core.api.addresses import is_peer_address
from nvdra_core.api.fabric import DEFAULT_HEARTBEAT_S, slot_name

IDLE_HEARTBEAT_S = 60
"""Of a node without domains: 10,000 such nodes cost the API server 170 small writes a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """A node's certificate request; the issuer decides whether the current certificate stays."""

    node: str
    request: str
    """PEM CSR."""
    dns_name: str
    """Name of the node's slot, the only name the certificate may carry."""
    current: FabricCertificate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A domain that a node takes part in, with its port and channel."""

    domain: DomainView
    assignment: ComputeDomainAssignment


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesSnapshot:
    """All that the specs of one clique's nodes depend on."""

    clique: CliqueSnapshot
    """With an empty clique_id: nodes without fabric, which get no slots."""
    memberships: Mapping[str, tuple[Membership, ...]] = field(default_factory=dict)
    """Of each node; missing: none."""
    departed: Mapping[str, tuple[FabricDomain, ...]] = field(default_factory=dict)
    """Of each node: domains deleted by force whose claims it still reports. Its spec keeps them, so that IMEX runs on
    and their numbers stay reserved.
    """
    lost: Mapping[str, str] = field(default_factory=dict)
    """Nodes whose heartbeats stopped, with the last one."""
    taken_elsewhere: frozenset[tuple[str, str, int]] = frozenset()
    """(node, clique, slot): former slots that belong to another node by now."""
    certificates: Mapping[str, FabricCertificate] = field(default_factory=dict)
    """New certificates by node; the others keep theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesPlan:
    """What to do about the FabricNodes of a clique."""

    writes: tuple[Write, ...]
    """One for each FabricNode whose spec must change."""
    slots: CliqueDecision
    certificate_requests: tuple[CertificateRequest, ...]


def reconcile(snapshot: NodesSnapshot, settings: FabricSettings) -> NodesPlan:
    """The wanted spec of each node, as writes, and the certificates that nodes ask for."""
    decision = decide_slots(snapshot, settings)
    filled = _filled(snapshot.clique, decision)
    counts = _slot_counts(snapshot.clique)
    writes: list[Write] = []
    requests: list[CertificateRequest] = []
    for view in snapshot.clique.nodes:
        if (
            slots.home(view) != snapshot.clique.clique_id
            or view.name not in snapshot.clique.existing
        ):
            continue  # the spec of a deleted Node stays until its FabricNode goes: the slot is reserved
        wanted = _spec(snapshot, decision, filled, view, counts)
        if settings.isolation is Isolation.CHANNEL and wanted.slot is not None:
            wanted = replace(wanted, shared_port=settings.ports.first)
        if view.name in snapshot.clique.outsiders:
            wanted = replace(wanted, certificate=None)
        elif (request := _certificate_request(view, wanted)) is not None:
            requests.append(request)
        if wanted != view.spec:
            writes.append(_write(view, wanted))
    return NodesPlan(writes=tuple(writes), slots=decision, certificate_requests=tuple(requests))


def _certificate_request(view: FabricView, wanted: FabricNodeSpec) -> CertificateRequest | None:
    request = view.status.imex.certificate_request
    if not request or wanted.slot is None:
        return None
    name = slot_name(wanted.clique_id, wanted.slot)
    current = view.spec.certificate
    return CertificateRequest(node=view.name, request=request, dns_name=name, current=current)


def decide_slots(snapshot: NodesSnapshot, settings: FabricSettings) -> CliqueDecision:
    """Slots of the clique; none for nodes without fabric or with an IMEX of the host."""
    if not snapshot.clique.clique_id or settings.mode is ImexMode.HOST_MANAGED:
        return CliqueDecision(slot_count=0, slots={})
    return slots.decide(snapshot.clique)


def _filled(clique: CliqueSnapshot, decision: CliqueDecision) -> tuple[FabricSlot, ...]:
    """Every taken slot, by index, with the address its node reports, else the one in the peers' lists; a reserved slot
    has none, so that IMEX does not try to connect to it.
    """
    remembered = {
        entry.node_name: entry.address
        for listed in slots.lists(clique.nodes, clique.clique_id)
        for entry in listed
        if is_peer_address(entry.address)  # an earlier release stored addresses unchecked
    }
    remembered |= {name: "" for name in decision.reserved}
    reported = {v.name: v.status.addresses for v in clique.nodes if v.name in decision.slots}
    taken = {**decision.slots, **decision.reserved}
    return tuple(
        FabricSlot(
            index=index,
            node_name=name,
            address=reported[name][0] if reported.get(name) else remembered.get(name, ""),
        )
        for name, index in sorted(taken.items(), key=lambda item: item[1])
    )


def _spec(
    snapshot: NodesSnapshot,
    decision: CliqueDecision,
    filled: tuple[FabricSlot, ...],
    view: FabricView,
    counts: Mapping[str, int],
) -> FabricNodeSpec:
    clique_id = snapshot.clique.clique_id
    memberships = snapshot.memberships.get(view.name, ())
    has_slots = bool(clique_id) and decision.slot_count > 0
    is_outsider = view.name in snapshot.clique.outsiders
    return FabricNodeSpec(
        clique_id=clique_id if has_slots else "",
        slot=decision.slots.get(view.name),
        slot_count=decision.slot_count,
        slots=filled if has_slots and not is_outsider else (),
        former_slots=_former(snapshot, view),
        domains=_domains(snapshot, decision, view.name, counts),
        heartbeat_seconds=DEFAULT_HEARTBEAT_S if memberships else IDLE_HEARTBEAT_S,
        certificate=snapshot.certificates.get(view.name, view.spec.certificate),
        lost_heartbeat=snapshot.lost.get(view.name, ""),
    )


def _slot_counts(clique: CliqueSnapshot) -> dict[str, int]:
    """Number of lines of nodes_config, for each domain in the specs of the clique's nodes with a slot.

    It is the same on all nodes and stays until no node of the clique takes part: IMEX refuses peers with another
    number. Specs of an earlier release have the clique's number only.
    """
    counts: dict[str, int] = {}
    for view in clique.nodes:
        if view.spec.clique_id == clique.clique_id and view.spec.slot is not None:
            for one in view.spec.domains:
                count = one.slot_count or view.spec.slot_count
                counts[one.uid] = max(count, counts.get(one.uid, 0))
    return counts


def _domains(
    snapshot: NodesSnapshot, decision: CliqueDecision, name: str, counts: Mapping[str, int]
) -> tuple[FabricDomain, ...]:
    """The domains in the node's spec, by UID."""
    domains = [_domain(one) for one in snapshot.memberships.get(name, ())]
    domains += [replace(one, deleting=True) for one in snapshot.departed.get(name, ())]
    return tuple(
        replace(
            one,
            members=_members(snapshot, decision, one.uid),
            slot_count=_slot_count(one, decision, counts),
        )
        for one in sorted(domains, key=lambda one: one.uid)
    )


def _slot_count(one: FabricDomain, decision: CliqueDecision, counts: Mapping[str, int]) -> int:
    """0 means the clique's number, also where one IMEX serves all domains. This avoids repeated writes where a CRD of
    an earlier release drops the field.
    """
    count = counts.get(one.uid, 0)
    if one.isolation is Isolation.CHANNEL or count == decision.slot_count:
        return 0
    return count if decision.slot_count else 0


def _members(snapshot: NodesSnapshot, decision: CliqueDecision, uid: str) -> tuple[int, ...]:
    """Slots of the clique's nodes that take part in a domain."""
    return tuple(
        sorted(
            slot
            for name, slot in decision.slots.items()
            if any(one.domain.uid == uid for one in snapshot.memberships.get(name, ()))
            or any(one.uid == uid for one in snapshot.departed.get(name, ()))
        )
    )


def _domain(membership: Membership) -> FabricDomain:
    domain, numbers = membership.domain, membership.assignment
    return FabricDomain(
        uid=domain.uid,
        namespace=domain.namespace,
        name=domain.name,
        isolation=numbers.isolation,
        port=numbers.port,
        channel=numbers.channel,
        deleting=domain.is_deleting,
    )


def _former(snapshot: NodesSnapshot, view: FabricView) -> tuple[FormerSlot, ...]:
    """Slots in cliques that the node left, unless another node has them."""
    here = snapshot.clique.clique_id
    kept = {slot.clique_id: slot.index for slot in view.spec.former_slots}
    if view.spec.slot is not None and view.spec.clique_id != here:
        kept[view.spec.clique_id] = view.spec.slot
    elif view.spec.slot is not None and view.name in snapshot.clique.removed:
        kept[here] = view.spec.slot
    if view.name not in snapshot.clique.removed:
        kept.pop(here, None)
    return tuple(
        FormerSlot(clique_id=clique_id, index=index)
        for clique_id, index in sorted(kept.items())
        if (view.name, clique_id, index) not in snapshot.taken_elsewhere
    )


def _write(view: FabricView, wanted: FabricNodeSpec) -> Merge:
    """A merge patch of the fields that change; null for those that go back to their defaults."""
    old, new = msgspec.to_builtins(view.spec), msgspec.to_builtins(wanted)
    changed = {key: new.get(key) for key in (*new, *old) if old.get(key) != new.get(key)}
    patch = {"metadata": {"uid": view.uid}, "spec": changed}
    is_urgent = not _is_about_peers(view.spec, wanted)
    return Merge(FABRIC_NODES, "", view.name, patch, is_urgent=is_urgent)


def _is_about_peers(old: FabricNodeSpec, new: FabricNodeSpec) -> bool:
    """Whether only the peers change: they join one by one, and no pod of this node waits for them."""

    def own(spec: FabricNodeSpec) -> FabricNodeSpec:
        alone = tuple(replace(domain, members=()) for domain in spec.domains)
        return replace(spec, slots=(), domains=alone)

    return own(old) == own(new)
