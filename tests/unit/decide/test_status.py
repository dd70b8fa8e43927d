"""Status of a domain: upstream's two fields with an honest Ready, conditions that say why."""

from __future__ import annotations

from typing import Any

import pytest

from nvdra_cluster.decide.domain import status
from nvdra_cluster.decide.model import DomainSnapshot, Problem
from nvdra_cluster.settings import FabricSettings
from nvdra_core.api import (
    AllocationMode,
    ComputeDomainState,
    ComputeDomainStatus,
    Condition,
)
from tests.unit.decide.views import (
    BY_CHANNEL,
    EARLIER,
    NOW,
    NUMBERS,
    SETTINGS,
    a_claim,
    a_domain,
    a_fabric_node,
    a_member,
    a_ready_node,
    a_snapshot,
    a_spec,
)


def decide(snapshot: DomainSnapshot, settings: FabricSettings = SETTINGS) -> ComputeDomainStatus:
    return status.decide(snapshot, settings, NOW)


def condition(found: ComputeDomainStatus, kind: str) -> Condition:
    return next(c for c in found.conditions if c.type == kind)


def said(found: ComputeDomainStatus, kind: str) -> tuple[str, str]:
    return (condition(found, kind).status, condition(found, kind).reason)


class TestReady:
    def test_all_nodes_ready(self):
        found = decide(a_snapshot(members=(a_member(),)))
        assert found.status is ComputeDomainState.READY
        assert (found.ready_nodes, found.total_nodes) == (1, 1)
        assert said(found, status.READY) == ("True", "AllNodesReady")
        assert said(found, status.DEGRADED) == ("False", "AsExpected")

    @pytest.mark.parametrize("wanted", [0, 1])
    def test_never_without_any_node(self, wanted: int):
        found = decide(a_snapshot(a_domain(spec=a_spec(numNodes=wanted))))
        assert found.status is ComputeDomainState.NOT_READY
        assert said(found, status.READY) == ("False", "NoNodes")

    def test_fewer_nodes_than_requested_are_not_ready(self):
        found = decide(a_snapshot(a_domain(spec=a_spec(numNodes=2)), members=(a_member(),)))
        assert said(found, status.READY) == ("False", "WaitingForNodes")
        assert found.status is ComputeDomainState.NOT_READY

    def test_more_nodes_than_requested_are_ready(self):
        members = (a_member(), a_member(a_ready_node("tray-b", 1)))
        found = decide(a_snapshot(a_domain(spec=a_spec(numNodes=1)), members=members))
        assert found.status is ComputeDomainState.READY

    def test_unready_node_is_named_in_the_condition(self):
        members = (a_member(), a_member(a_ready_node("tray-b", 1), is_lost=True))
        found = decide(a_snapshot(members=members))
        assert said(found, status.READY) == ("False", "NodesNotReady")
        assert "tray-b: NodeLost" in condition(found, status.READY).message
        assert said(found, status.DEGRADED) == ("True", "NodeLost")


class TestNodes:
    def test_are_sorted_and_have_what_upstream_lists(self):
        members = (a_member(a_ready_node("tray-b", 1)), a_member(a_ready_node("tray-a", 0)))
        found = decide(a_snapshot(members=members))
        assert [(n.name, n.index, n.status.value) for n in found.nodes] == [
            ("tray-a", 0, "Ready"), ("tray-b", 1, "Ready"),
        ]  # fmt: skip
        assert found.nodes[0].ip_address == "10.0.0.6"

    def test_without_fabric_have_index_minus_one_and_no_clique(self):
        found = decide(a_snapshot(members=(a_member(a_fabric_node(clique="")),)))
        assert (found.nodes[0].index, found.nodes[0].clique_id) == (-1, "")

    def test_of_large_domain_are_not_all_named_in_message(self):
        members = tuple(a_member(a_ready_node(f"n{i:03}", i), is_lost=True) for i in range(200))
        message = condition(decide(a_snapshot(members=members)), status.READY).message
        assert "and 197 more nodes" in message
        assert len(message) < 400


class TestRefused:
    @pytest.mark.parametrize(
        ("snapshot", "settings", "reason"),
        [
            (a_snapshot(a_domain(spec=None, problem="$.channel: missing")), SETTINGS, "InvalidSpec"),
            (a_snapshot(assignment=None), SETTINGS, "NoNumberFree"),
            (a_snapshot(a_domain(spec=a_spec(channel={
                "resourceClaimTemplate": {"name": "t"}, "allocationMode": AllocationMode.ALL.value,
            }))), BY_CHANNEL, "AllocationModeNotAllowed"),
        ],
    )  # fmt: skip
    def test_unservable_domain_has_reason_in_every_condition(self, snapshot, settings, reason):
        found = decide(snapshot, settings)
        assert said(found, status.ACCEPTED) == ("False", reason)
        assert said(found, status.READY) == ("False", reason)
        assert condition(found, status.ACCEPTED).message

    def test_accepted_condition_names_the_numbers(self):
        found = decide(a_snapshot())
        assert (said(found, status.ACCEPTED), found.assignment) == (("True", "Accepted"), NUMBERS)
        assert "24001" in condition(found, status.ACCEPTED).message


class TestTemplates:
    def test_template_there_is_ready(self):
        assert said(decide(a_snapshot()), status.TEMPLATES_READY) == ("True", "Created")

    def test_taken_name_is_a_condition(self):
        problem = Problem("NameTaken", "another object has it")
        found = decide(a_snapshot(templates=(), template_problem=problem))
        assert said(found, status.TEMPLATES_READY) == ("False", "NameTaken")


class TestDeleting:
    def test_says_who_is_in_way(self):
        found = decide(a_snapshot(a_domain(is_deleting=True), claims=(a_claim(),)))
        assert said(found, status.DELETION_BLOCKED) == ("True", "ClaimsInUse")
        assert "claim team/c on node tray-a (pods pod-0)" in condition(
            found, status.DELETION_BLOCKED
        ).message  # fmt: skip

    def test_living_domain_has_no_such_condition(self):
        assert all(c.type != status.DELETION_BLOCKED for c in decide(a_snapshot()).conditions)


class TestTimes:
    def test_condition_keeps_its_time_until_its_status_changes(self):
        old = tuple(
            Condition(type=kind, status=state, reason="Old", last_transition_time=EARLIER)
            for kind, state in ((status.ACCEPTED, "True"), (status.READY, "True"))
        )
        found = decide(a_snapshot(a_domain(status=ComputeDomainStatus(conditions=old))))
        assert condition(found, status.ACCEPTED).last_transition_time == EARLIER
        assert condition(found, status.READY).last_transition_time == NOW

    def test_deciding_again_changes_nothing(self):
        domain: dict[str, Any] = {"members": (a_member(),)}
        first = decide(a_snapshot(**domain))
        again = status.decide(
            a_snapshot(a_domain(status=first), **domain), SETTINGS, "2027-01-01T00:00:00Z"
        )
        assert again == first
