"""Ready of a domain means that its nodes are connected to each other."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from msgspec.structs import replace

from nvdra_cluster.decide.domain import status
from nvdra_cluster.decide.model import FabricView
from nvdra_core import api
from tests.unit.decide.views import (
    BY_HOST,
    NOW,
    OTHER_CLIQUE,
    SETTINGS,
    a_fabric_node,
    a_member,
    a_ready_node,
    a_report,
    a_snapshot,
)


def decide(*views: FabricView, **more: Any) -> api.ComputeDomainStatus:
    members = tuple(a_member(view) for view in views)
    return status.decide(a_snapshot(members=members), more.get("settings", SETTINGS), NOW)


def condition(found: api.ComputeDomainStatus, kind: str) -> api.Condition:
    return next(c for c in found.conditions if c.type == kind)


def a_tray(name: str, slot: int, connected: int, **report: Any) -> FabricView:
    return a_ready_node(name, slot, peers_connected=connected, **report)


def test_nodes_each_alone_are_not_ready():
    """All of them with the address 127.0.0.1: each IMEX was READY, and the domain too."""
    found = decide(a_tray("tray-a", 0, 0), a_tray("tray-b", 1, 0))
    assert found.status is api.ComputeDomainState.NOT_READY
    assert [n.status for n in found.nodes] == [api.ComputeDomainState.NOT_READY] * 2
    ready = condition(found, "Ready")
    assert (ready.status, ready.reason) == ("False", "NodesNotReady")
    assert "tray-a: PeersConnecting (connected to 0 of 1 peers)" in ready.message


def test_connected_nodes_are_ready():
    found = decide(a_tray("tray-a", 0, 1), a_tray("tray-b", 1, 1))
    assert found.status is api.ComputeDomainState.READY


def test_one_node_alone_needs_no_peer():
    assert decide(a_tray("tray-a", 0, 0)).status is api.ComputeDomainState.READY


def test_nodes_of_two_cliques_need_no_connection_to_each_other():
    other = a_fabric_node(
        "tray-b", clique=OTHER_CLIQUE, slot=0,
        status={"imex": a_ready_node().status.imex, "domains": (a_report(peers_connected=0),)},
    )  # fmt: skip
    assert decide(a_tray("tray-a", 0, 0), other).status is api.ComputeDomainState.READY


def test_peer_not_ready_itself_leaves_others_ready():
    lost = a_ready_node("tray-c", 2, ready=False, reason="ImexFailed", peers_connected=0)
    found = decide(a_tray("tray-a", 0, 1), a_tray("tray-b", 1, 1), lost)
    states = {n.name: n.status.value for n in found.nodes}
    assert states == {"tray-a": "Ready", "tray-b": "Ready", "tray-c": "NotReady"}


def test_connection_to_unready_peer_is_not_counted():
    """Two connections, and two ready peers, but not the same ones."""
    peers = (api.FabricPeer(slot=2),)
    here = a_tray("tray-a", 0, 2, peers=peers)
    failed = a_ready_node("tray-d", 3, ready=False, reason="ImexFailed", peers_connected=0)
    found = decide(here, a_tray("tray-b", 1, 2), a_tray("tray-c", 2, 2), failed)
    states = {n.name: n.status.value for n in found.nodes}
    assert (states["tray-a"], states["tray-b"]) == ("NotReady", "Ready")
    assert "connected to 1 of 2 peers, not to tray-c" in condition(found, "Ready").message


def test_passing_lack_of_connection_is_not_degraded():
    found = decide(a_tray("tray-a", 0, 0), a_tray("tray-b", 1, 1))
    assert condition(found, "Degraded").status == "False"


@pytest.mark.parametrize(
    "reason", ["PeersMissing", "PeersUnknown", "ImexVersionMismatch", "NodeMapMismatch"]
)
def test_lasting_missing_connection_degrades_with_reason(reason: str):
    lacking = a_tray("tray-a", 0, 0, reason=reason, message="not to slot 1")
    found = decide(lacking, a_tray("tray-b", 1, 1))
    degraded = condition(found, "Degraded")
    assert (degraded.status, degraded.reason) == ("True", reason)
    assert "not to slot 1" in degraded.message


@pytest.mark.parametrize(
    "reason", ["NoAddress", "AddressLost", "DomainFull", "ImexHeld", "ForeignImex"]
)
def test_node_waiting_for_an_admin_degrades_its_domain(reason: str):
    waiting = a_tray("tray-a", 0, 0, ready=False, reason=reason, message="set imexAddress")
    degraded = condition(decide(waiting), "Degraded")
    assert (degraded.status, degraded.reason) == ("True", reason)
    assert "set imexAddress" in degraded.message


def with_run(view: FabricView, **run: Any) -> FabricView:
    incarnation = view.status.imex.incarnation
    assert incarnation is not None
    imex = replace(view.status.imex, incarnation=replace(incarnation, **run))
    return dataclasses.replace(view, status=replace(view.status, imex=imex))


def test_message_names_peers_with_both_versions_and_node_maps():
    peers = (api.FabricPeer(slot=1, problem="VersionMismatch"), api.FabricPeer(slot=2))
    here = with_run(a_tray("tray-a", 0, 0, peers=peers), version="580.65", slot_count=18)
    older = with_run(a_tray("tray-b", 1, 2), version="570.1", slot_count=18)
    larger = with_run(a_tray("tray-c", 2, 2), version="580.65", slot_count=36)
    message = condition(decide(here, older, larger), "Ready").message
    assert "tray-b (IMEX 570.1, here 580.65)" in message
    assert "tray-c (node map of 36 slots, here 18)" in message


def test_connections_of_hosts_own_imex_are_not_asked_for():
    found = decide(a_tray("tray-a", 0, 0), a_tray("tray-b", 1, 0), settings=BY_HOST)
    assert found.status is api.ComputeDomainState.READY
