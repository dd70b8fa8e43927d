"""Specs of FabricNodes: the same list for all of a clique, the node's domains, and writes only of what changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from nvdra_cluster.decide.model import FabricView
from nvdra_cluster.decide.node import nodespecs
from nvdra_cluster.decide.node.nodespecs import Membership, NodesSnapshot
from nvdra_cluster.decide.node.slots import CliqueSnapshot
from nvdra_cluster.decide.writes import Merge, Write
from nvdra_core import api
from nvdra_core.api import (
    ComputeDomainAssignment,
    FabricCertificate,
    FabricDomain,
    FabricNodeSpec,
    FormerSlot,
    Isolation,
)
from nvdra_core.api.fabric import slot_name
from tests.unit.decide.views import (
    BY_CHANNEL,
    BY_HOST,
    CLIQUE,
    NUMBERS,
    OTHER_CLIQUE,
    SETTINGS,
    a_domain,
    a_fabric_node,
    a_run,
)


def a_clique(*nodes: FabricView, **fields: Any) -> NodesSnapshot:
    memberships = fields.pop("memberships", {})
    taken = fields.pop("taken_elsewhere", frozenset())
    known = {
        "clique_id": CLIQUE,
        "nodes": nodes,
        "existing": frozenset(view.name for view in nodes),
        "slot_count": 18,
    }
    clique = CliqueSnapshot(**{**known, **fields})
    return NodesSnapshot(clique=clique, memberships=memberships, taken_elsewhere=taken)


def applied(view: FabricView, writes: Sequence[Write]) -> FabricNodeSpec:
    """The node's spec after the writes."""
    spec = msgspec.to_builtins(view.spec)
    for write in writes:
        if isinstance(write, Merge) and write.name == view.name:
            spec = {k: v for k, v in {**spec, **write.patch["spec"]}.items() if v is not None}
    return msgspec.convert(spec, FabricNodeSpec)


def one_domain() -> dict[str, tuple[Membership, ...]]:
    return {"tray-a": (Membership(domain=a_domain(), assignment=NUMBERS),)}


def test_all_nodes_of_clique_get_same_list():
    a, b = a_fabric_node("a"), a_fabric_node("bb")
    writes = nodespecs.reconcile(a_clique(a, b), SETTINGS).writes
    first, second = applied(a, writes), applied(b, writes)
    assert first.slots == second.slots
    assert [(s.index, s.node_name, s.address) for s in first.slots] == [
        (0, "a", "10.0.0.1"), (1, "bb", "10.0.0.2"),
    ]  # fmt: skip
    assert (first.slot, second.slot, first.clique_id, first.slot_count) == (0, 1, CLIQUE, 18)


def test_settled_clique_costs_no_write():
    a, b = a_fabric_node("a"), a_fabric_node("bb")
    writes = nodespecs.reconcile(a_clique(a, b), SETTINGS).writes
    a, b = (a_fabric_node(v.name, spec=msgspec.structs.asdict(applied(v, writes))) for v in (a, b))
    assert nodespecs.reconcile(a_clique(a, b), SETTINGS).writes == ()


def test_spec_names_domain_with_namespace_and_numbers():
    view = a_fabric_node()
    writes = nodespecs.reconcile(a_clique(view, memberships=one_domain()), SETTINGS).writes
    (domain,) = applied(view, writes).domains
    assert (domain.uid, domain.namespace, domain.name) == ("u1", "team", "train")
    assert (domain.port, domain.channel, domain.deleting) == (24001, 0, False)


def test_domain_names_slots_of_its_members_in_clique():
    a, b, c = a_fabric_node("a", slot=2), a_fabric_node("bb", slot=5), a_fabric_node("ccc", slot=7)
    one = (Membership(domain=a_domain(), assignment=NUMBERS),)
    writes = nodespecs.reconcile(
        a_clique(a, b, c, memberships={"a": one, "ccc": one}), SETTINGS
    ).writes
    assert applied(a, writes).domains[0].members == (2, 7)
    assert applied(c, writes).domains == applied(a, writes).domains
    assert applied(b, writes).domains == ()


def test_heartbeats_are_frequent_only_while_node_takes_part():
    view = a_fabric_node()
    busy = nodespecs.reconcile(a_clique(view, memberships=one_domain()), SETTINGS).writes
    idle = nodespecs.reconcile(a_clique(view), SETTINGS).writes
    assert (applied(view, busy).heartbeat_seconds, applied(view, idle).heartbeat_seconds) == (
        10,
        60,
    )


def test_node_without_fabric_gets_domains_and_no_slot():
    view = a_fabric_node(clique="")
    plan = nodespecs.reconcile(a_clique(view, clique_id="", memberships=one_domain()), SETTINGS)
    spec = applied(view, plan.writes)
    assert (spec.slot, spec.slots, spec.clique_id, plan.slots.slots) == (None, (), "", {})
    assert len(spec.domains) == 1


def test_imex_of_host_gets_no_slots():
    view = a_fabric_node()
    writes = nodespecs.reconcile(a_clique(view, memberships=one_domain()), BY_HOST).writes
    spec = applied(view, writes)
    assert (spec.slot, spec.clique_id, len(spec.domains)) == (None, "", 1)


def test_write_names_only_what_changes_and_object_it_means():
    view = a_fabric_node()
    first = nodespecs.reconcile(a_clique(view), SETTINGS).writes
    given = a_fabric_node(spec=msgspec.structs.asdict(applied(view, first)))
    (write,) = nodespecs.reconcile(a_clique(given, memberships=one_domain()), SETTINGS).writes
    assert isinstance(write, Merge)
    assert write.patch["metadata"] == {"uid": "uid-tray-a"}
    assert set(write.patch["spec"]) == {"domains", "heartbeatSeconds"}


def test_leaving_last_domain_clears_spec():
    view = a_fabric_node()
    writes = nodespecs.reconcile(a_clique(view, memberships=one_domain()), SETTINGS).writes
    given = a_fabric_node(spec=msgspec.structs.asdict(applied(view, writes)))
    writes = nodespecs.reconcile(a_clique(given), SETTINGS).writes
    assert applied(given, writes).domains == ()


def test_isolation_channel_sets_clique_port_without_domains():
    view = a_fabric_node()
    shared = nodespecs.reconcile(a_clique(view), BY_CHANNEL).writes
    own = nodespecs.reconcile(a_clique(view), SETTINGS).writes
    assert (applied(view, shared).shared_port, applied(view, own).shared_port) == (24000, 0)
    outside = a_fabric_node(clique="")
    none = nodespecs.reconcile(a_clique(outside, clique_id=""), BY_CHANNEL).writes
    assert applied(outside, none).shared_port == 0


class TestMoving:
    def test_node_keeps_note_of_slot_it_leaves(self):
        view = a_fabric_node(clique=CLIQUE, slot=4, status={"clique_id": OTHER_CLIQUE})
        writes = nodespecs.reconcile(a_clique(view, clique_id=OTHER_CLIQUE), SETTINGS).writes
        spec = applied(view, writes)
        assert (spec.clique_id, spec.slot) == (OTHER_CLIQUE, 0)
        assert spec.former_slots == (FormerSlot(clique_id=CLIQUE, index=4),)

    def test_clique_it_left_does_not_write_its_spec(self):
        view = a_fabric_node(clique=CLIQUE, slot=4, status={"clique_id": OTHER_CLIQUE})
        assert nodespecs.reconcile(a_clique(view), SETTINGS).writes == ()

    def test_left_mark_ends_on_return_or_new_slot_holder(self):
        former = (FormerSlot(clique_id=CLIQUE, index=4),)
        back = a_fabric_node(spec={"former_slots": former})
        writes = nodespecs.reconcile(a_clique(back), SETTINGS).writes
        assert (applied(back, writes).slot, applied(back, writes).former_slots) == (4, ())
        away = a_fabric_node(clique=OTHER_CLIQUE, spec={"former_slots": former})
        taken = frozenset({("tray-a", CLIQUE, 4)})
        writes = nodespecs.reconcile(
            a_clique(away, clique_id=OTHER_CLIQUE, taken_elsewhere=taken), SETTINGS
        ).writes
        assert applied(away, writes).former_slots == ()

    def test_node_out_of_service_has_no_slot_but_note_of_it(self):
        off = a_fabric_node(slot=2)
        writes = nodespecs.reconcile(
            a_clique(off, out_of_service=frozenset({"tray-a"})), SETTINGS
        ).writes
        spec = applied(off, writes)
        assert (spec.slot, spec.former_slots) == (None, (FormerSlot(clique_id=CLIQUE, index=2),))


def test_certificate_request_names_slot_and_reply_is_written():
    view = a_fabric_node(status={"imex": api.ImexStatus(certificate_request="csr")})
    snapshot = a_clique(view)
    (request,) = nodespecs.reconcile(snapshot, SETTINGS).certificate_requests
    assert (request.node, request.request, request.current) == ("tray-a", "csr", None)
    assert request.dns_name == slot_name(CLIQUE, 0)
    issued = FabricCertificate(certificate="c", authorities="a", not_after="z")
    snapshot = dataclasses.replace(snapshot, certificates={"tray-a": issued})
    assert applied(view, nodespecs.reconcile(snapshot, SETTINGS).writes).certificate == issued


def test_outsider_loses_its_certificate_and_requests_none():
    given = FabricCertificate(certificate="c", authorities="a", not_after="z")
    status = {"imex": api.ImexStatus(certificate_request="csr")}
    view = a_fabric_node(spec={"certificate": given}, status=status)
    plan = nodespecs.reconcile(a_clique(view, outsiders=frozenset({"tray-a"})), SETTINGS)
    assert plan.certificate_requests == ()
    assert applied(view, plan.writes).certificate is None


class TestSlotCounts:
    """All nodes of a domain have as many lines in nodes_config, or their IMEX refuse each other."""

    def counts_for(self, *nodes: FabricView, count: int) -> dict[str, int]:
        """The domain's number on each node, all of which take part."""
        writes = self.writes(*nodes, count=count)
        return {view.name: applied(view, writes).domains[0].slot_count for view in nodes}

    def spec_of(self, *nodes: FabricView, count: int) -> FabricNodeSpec:
        return applied(nodes[0], self.writes(*nodes, count=count))

    def writes(self, *nodes: FabricView, count: int) -> tuple[Write, ...]:
        joined = (Membership(domain=a_domain(), assignment=NUMBERS),)
        snapshot = a_clique(
            *nodes, memberships={view.name: joined for view in nodes}, slot_count=count
        )
        return nodespecs.reconcile(snapshot, SETTINGS).writes

    def a_member(self, name: str, slot: int, slot_count: int) -> FabricView:
        assigned = FabricDomain(
            uid="u1", namespace="team", name="train", isolation=Isolation.DOMAIN,
            port=24001, channel=0, slot_count=slot_count,
        )  # fmt: skip
        return a_fabric_node(
            name, slot=slot, spec={"domains": (assigned,)}, status={"imex": a_run(slot)}
        )

    def test_new_domain_has_cliques_number(self):
        view = a_fabric_node("a")
        assert self.counts_for(view, count=36) == {"a": 0}
        assert self.spec_of(view, count=36).slot_count == 36

    def test_domain_without_own_count_keeps_cliques_when_raised(self):
        nodes = self.a_member("a", 0, 0), a_fabric_node("late")
        assert self.counts_for(*nodes, count=36) == {"a": 18, "late": 18}
        assert self.spec_of(*nodes, count=36).slot_count == 36

    def test_earlier_crd_causes_no_repeated_writes(self):
        """It drops the number, and each decision would write it again to all nodes of the clique."""
        view = self.a_member("a", 0, 0)
        spec = self.spec_of(view, count=18)
        one = replace(spec.domains[0], slot_count=0)
        spec = replace(spec, domains=(one,))
        stored = dataclasses.replace(view, spec=spec)
        assert self.writes(stored, count=18) == ()

    def test_domain_keeps_its_number_when_cliques_is_raised(self):
        nodes = self.a_member("a", 0, 18), a_fabric_node("late")
        assert self.counts_for(*nodes, count=36) == {"a": 18, "late": 18}

    def test_domain_of_earlier_release_keeps_cliques_count(self):
        nodes = self.a_member("a", 0, 0), a_fabric_node("late")
        assert self.counts_for(*nodes, count=36) == {"a": 18, "late": 18}

    def test_domain_of_shared_imex_has_none_of_its_own(self):
        numbers = ComputeDomainAssignment(isolation=Isolation.CHANNEL, port=24000, channel=1)
        joined = {"a": (Membership(domain=a_domain(), assignment=numbers),)}
        view = a_fabric_node("a")
        writes = nodespecs.reconcile(a_clique(view, memberships=joined), BY_CHANNEL).writes
        assert applied(view, writes).domains[0].slot_count == 0
