"""The ``spec`` of every FabricNode of a clique: slots, domains, heartbeats, certificate. Pure.

One clique at a time, because all its nodes get the same list of slots; a node without a clique is a
clique of its own. ``control.reconciler`` gathers the snapshot and carries the writes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from nvdra_core.api.fabric import DEFAULT_HEARTBEAT_S

IDLE_HEARTBEAT_S = 60
"""Of a node without domains: 10,000 such nodes cost the API server 170 small writes a second."""

Certify = Callable[[FabricView, FabricNodeSpec], FabricCertificate | None]
"""The certificate for the node in that slot: the one it has, or a new one; None without request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A domain that a node takes part in, with the numbers that it has."""

    domain: DomainView
    assignment: ComputeDomainAssignment


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesSnapshot:
    """All that the specs of one clique's nodes depend on."""

    clique: CliqueSnapshot
    """With an empty clique_id: nodes without fabric, which get no slots."""
    joined: Mapping[str, tuple[Membership, ...]] = field(default_factory=dict)
    """Of each node; missing: none."""
    departed: Mapping[str, tuple[FabricDomain, ...]] = field(default_factory=dict)
    """Of each node: domains that are gone (forced away) and whose claims it still reports. It goes on
    to know them, so that IMEX can be kept running and nobody else is given their numbers.
    """
    lost: Mapping[str, str] = field(default_factory=dict)
    """Nodes whose heartbeats stopped, with the last one."""
    taken_elsewhere: frozenset[tuple[str, str, int]] = frozenset()
    """(node, clique, slot): former slots that meanwhile belong to another node."""


def no_certificates(view: FabricView, spec: FabricNodeSpec) -> FabricCertificate | None:
    """A ``Certify`` for clusters without TLS between IMEX peers: whatever is there stays."""
    return view.spec.certificate


def reconcile(
    snapshot: NodesSnapshot, settings: FabricSettings, certify: Certify = no_certificates
) -> tuple[list[Write], CliqueDecision]:
    """A write for each FabricNode whose spec is not as it should be, and who has which slot."""
    decision = decide_slots(snapshot, settings)
    filled = _filled(snapshot.clique, decision)
    counts = _slot_counts(snapshot.clique)
    writes: list[Write] = []
    for view in snapshot.clique.nodes:
        if (
            slots.home(view) != snapshot.clique.clique_id
            or view.name not in snapshot.clique.existing
        ):
            continue  # a node that is gone keeps what it has, until its object goes: its slot cools
        wanted = _spec(snapshot, decision, filled, view, counts)
        if settings.isolation is Isolation.CHANNEL and wanted.slot is not None:
            wanted = replace(wanted, shared_port=settings.ports.first)
        is_outsider = view.name in snapshot.clique.outsiders
        wanted = replace(wanted, certificate=None if is_outsider else certify(view, wanted))
        if wanted != view.spec:
            writes.append(_write(view, wanted))
    return writes, decision


def decide_slots(snapshot: NodesSnapshot, settings: FabricSettings) -> CliqueDecision:
    """Slots of the clique; none for nodes without fabric or with an IMEX of the host."""
    if not snapshot.clique.clique_id or settings.mode is ImexMode.HOST_MANAGED:
        return CliqueDecision(slot_count=0, slots={})
    return slots.decide(snapshot.clique)


def _filled(clique: CliqueSnapshot, decision: CliqueDecision) -> tuple[FabricSlot, ...]:
    """Every filled slot, by index, with the address its node reports, or else its peers remember; one that
    cools has none, so that nobody looks for the node.
    """
    remembered = {
        entry.node_name: entry.address
        for listed in slots.lists(clique.nodes, clique.clique_id)
        for entry in listed
        if is_peer_address(entry.address)  # an earlier release took what nodes reported
    }
    remembered |= {name: "" for name in decision.cooling}
    reported = {v.name: v.status.addresses for v in clique.nodes if v.name in decision.slots}
    taken = {**decision.slots, **decision.cooling}
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
    joined = snapshot.joined.get(view.name, ())
    has_slots = bool(clique_id) and decision.slot_count > 0
    is_outsider = view.name in snapshot.clique.outsiders
    return FabricNodeSpec(
        clique_id=clique_id if has_slots else "",
        slot=decision.slots.get(view.name),
        slot_count=decision.slot_count,
        slots=filled if has_slots and not is_outsider else (),
        former_slots=_former(snapshot, view),
        domains=_domains(snapshot, decision, view.name, counts),
        heartbeat_seconds=DEFAULT_HEARTBEAT_S if joined else IDLE_HEARTBEAT_S,
        certificate=view.spec.certificate,
        lost_heartbeat=snapshot.lost.get(view.name, ""),
    )


def _slot_counts(clique: CliqueSnapshot) -> dict[str, int]:
    """Of each domain that nodes with a slot in the clique were told of: how many lines its nodes_config has there.

    It is the same on all nodes, and stays until no node of the clique takes part any more: IMEX refuses peers with
    another one. An earlier release told nodes the clique's number alone.
    """
    counts: dict[str, int] = {}
    for view in clique.nodes:
        if view.spec.clique_id == clique.clique_id and view.spec.slot is not None:
            for one in view.spec.domains:
                told = one.slot_count or view.spec.slot_count
                counts[one.uid] = max(told, counts.get(one.uid, 0))
    return counts


def _domains(
    snapshot: NodesSnapshot, decision: CliqueDecision, name: str, counts: Mapping[str, int]
) -> tuple[FabricDomain, ...]:
    """What the node is told of its domains, by UID."""
    told = [_domain(one) for one in snapshot.joined.get(name, ())]
    told += [replace(one, deleting=True) for one in snapshot.departed.get(name, ())]
    return tuple(
        replace(
            one,
            members=_members(snapshot, decision, one.uid),
            slot_count=_slot_count(one, decision, counts),
        )
        for one in sorted(told, key=lambda one: one.uid)
    )


def _slot_count(one: FabricDomain, decision: CliqueDecision, counts: Mapping[str, int]) -> int:
    """0: the clique's number, also where the clique has one IMEX for all domains. So nothing is written again and
    again where the definition of an earlier release drops the field.
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
            if any(one.domain.uid == uid for one in snapshot.joined.get(name, ()))
            or any(one.uid == uid for one in snapshot.departed.get(name, ()))
        )
    )


def _domain(joined: Membership) -> FabricDomain:
    domain, numbers = joined.domain, joined.assignment
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
    """Slots in cliques that the node left, as long as nobody else has them."""
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
    """Whether nothing changes but who else is there: peers come one by one, and no pod of this node waits for them."""

    def own(spec: FabricNodeSpec) -> FabricNodeSpec:
        alone = tuple(replace(domain, members=()) for domain in spec.domains)
        return replace(spec, slots=(), domains=alone)

    return own(old) == own(new)
