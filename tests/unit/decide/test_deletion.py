"""Deletion of a domain: waits for those who hold it, names them, and can be forced."""

from __future__ import annotations

from nvdra_cluster.decide.domain import deletion, lifecycle
from nvdra_cluster.decide.model import DomainSnapshot
from tests.unit.decide.views import (
    a_claim,
    a_claim_of,
    a_domain,
    a_member,
    a_ready_node,
    a_snapshot,
)


def dying(**fields: object) -> DomainSnapshot:
    return a_snapshot(a_domain(is_deleting=True), **fields)


def names(snapshot: DomainSnapshot) -> list[str]:
    return [str(holder) for holder in deletion.holders(snapshot)]


def test_reserved_claim_holds():
    assert names(dying(claims=(a_claim(),))) == ["claim team/c on node tray-a (pods pod-0)"]


def test_unused_claim_does_not_hold():
    assert names(dying(claims=(a_claim(users=()),))) == []


def test_claim_of_another_namespace_does_not():
    assert names(dying(claims=(a_claim(namespace="evil"),))) == []


def test_prepared_domain_holds_after_claim_is_deleted():
    view = a_ready_node(claims=(a_claim_of(),))
    assert names(dying(members=(a_member(view),))) == ["claim team/c on node tray-a"]


def test_claim_that_both_know_is_named_once():
    view = a_ready_node(claims=(a_claim_of(),))
    assert len(names(dying(members=(a_member(view),), claims=(a_claim(),)))) == 1


def test_lost_node_holds_and_message_says_what_to_do():
    view = a_ready_node(claims=(a_claim_of(),))
    (text,) = names(dying(members=(a_member(view, is_lost=True),)))
    assert "out-of-service" in text


def test_deleted_or_out_of_service_node_holds_nothing():
    view = a_ready_node(claims=(a_claim_of(),))
    for fields in ({"has_node": False}, {"is_out_of_service": True}):
        assert names(dying(members=(a_member(view, **fields),))) == []


def test_message_names_some_and_counts_rest():
    claims = tuple(a_claim(f"c{i}") for i in range(8))
    text = deletion.describe(deletion.holders(dying(claims=claims)))
    assert "and 3 more" in text
    assert "fabric.nvdra.io/force-delete=true" in text


def test_force_beats_holders():
    forced = a_snapshot(a_domain(is_deleting=True, is_forced=True), claims=(a_claim(),))
    assert lifecycle.may_go(forced)
    assert not lifecycle.may_go(dying(claims=(a_claim(),)))
