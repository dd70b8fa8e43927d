"""Peers of a domain, their versions and their node maps."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from nvdra_core.api.fabric import FabricPeer, Isolation
from nvdra_node.imex.daemon.ctl import ImexDomainStatus
from nvdra_node.imex.report import status as report
from nvdra_node.imex.sources.peer_monitor import LASTING_S, PEERS_S, UNKNOWN_AFTER, PeerMonitor
from tests.beds.memory.imex_node import LAYOUT, ImexNode, a_claim, a_domain, slots

SLOTS = slots(2, 5, 7, 20)


@pytest.fixture
def node() -> ImexNode:
    made = ImexNode()
    made.assign(a_domain(members=(2, 5, 7)), slots=SLOTS)
    return made


def see(node: ImexNode, *connected: int, **more: Any) -> Any:
    """Set the peer view; the domain's status after it."""
    view = ImexDomainStatus(own=2, connected=frozenset(connected), version="580.65", **more)
    node.supervisor.set_view(view)
    node.reconcile()
    return node.domain_status()


class TestConnections:
    def test_unconnected_peers_are_listed_with_cause(self, node):
        node.join("c1")
        problems = (FabricPeer(slot=7, problem="VersionMismatch", version="570.1"),)
        domain = see(node, 5, problems=problems)
        assert (domain.peers_connected, domain.peers_known) == (1, 2)
        assert domain.peers == problems

    def test_before_the_first_view_no_peer_counts_as_connected(self, node):
        node.join("c1")
        domain = node.domain_status()
        assert (domain.peers_connected, domain.peers_known) == (0, 2)
        assert [peer.slot for peer in domain.peers] == [5, 7]

    def test_other_nodes_of_the_clique_do_not_count(self):
        node = ImexNode()
        shared = a_domain(isolation=Isolation.CHANNEL, members=(2, 5))
        node.assign(shared, slots=SLOTS, shared_port=50000)
        node.join("c1")
        domain = see(node, 5)
        assert (domain.peers_connected, domain.peers_known, domain.peers) == (1, 1, ())

    def test_last_connected_or_lost_peer_is_urgent(self, node):
        node.join("c1")
        see(node)
        none = node.status()
        see(node, 5)
        one = node.status()
        see(node, 5, 7)
        both = node.status()
        assert not report.has_all_peers(none, one) and not report.is_urgent(none, one)
        assert report.has_all_peers(one, both)
        assert report.is_urgent(both, one)
        assert not report.has_all_peers(both, both) and not report.is_urgent(both, both)

    def test_member_that_left_the_domain_is_no_lost_peer(self, node):
        """Each pod that ends would else cost a write of every other node of the domain."""
        node.join("c1")
        see(node, 5, 7)
        both = node.status()
        node.assign(a_domain(members=(2, 5)), slots=SLOTS)
        see(node, 5, 7)
        one = node.status()
        assert (one.domains[0].peers_connected, one.domains[0].peers_known) == (1, 1)
        assert not report.is_urgent(both, one)
        see(node)
        assert report.is_urgent(one, node.status())

    def test_ready_domain_waits_for_its_peers_only(self, node):
        node.reconcile()
        before = node.status()
        node.join("c1")
        alone = node.status()
        assert report.awaits_peers(before, alone)
        see(node, 5, 7)
        assert not report.awaits_peers(before, node.status())
        moved = replace(alone, addresses=("10.0.0.99",))
        assert not report.awaits_peers(before, moved)
        assert not report.awaits_peers(alone, moved)


class TestMismatch:
    def test_version_mismatch_is_reported_with_both_versions(self, node):
        node.join("c1")
        problems = (FabricPeer(slot=5, problem="VersionMismatch", version="570.1"),)
        domain = see(node, 7, problems=problems)
        assert (domain.ready, domain.reason) == (True, "ImexVersionMismatch")
        assert "580.65" in domain.message and "slot 5 (10.0.0.5, n5) with 570.1" in domain.message

    def test_node_map_mismatch_is_reported_with_its_peer(self, node):
        node.join("c1")
        problems = (FabricPeer(slot=7, problem="NodeMapMismatch"),)
        domain = see(node, 5, problems=problems)
        assert domain.reason == "NodeMapMismatch"
        assert "18 slots" in domain.message and "slot 7 (10.0.0.7, n7)" in domain.message

    def test_incarnation_has_version_and_slot_count(self, node):
        node.join("c1")
        see(node, 5, 7)
        run = node.status().imex.incarnation
        assert run is not None and (run.version, run.slot_count) == ("580.65", 18)


class TestSlotCount:
    def test_raised_slot_count_applies_to_new_domains(self, node):
        node.join("c1")
        old = a_domain("A", slot_count=18, members=(2, 5, 7))
        node.assign(old, a_domain("B", slot_count=36), slots=SLOTS, slot_count=36)
        node.reconcile()
        assert node.ask(a_claim("c1")).readiness.is_ready
        assert node.join("c2").readiness.is_ready
        assert node.daemon.history == ["start"]
        assert (node.files.read(LAYOUT.nodes) or b"").count(b"\n") == 18
        for uid in ("c1", "c2"):
            node.claims.leave(uid)
        assert node.join("c3", "B").readiness.is_ready
        assert (node.files.read(LAYOUT.nodes) or b"").count(b"\n") == 36
        assert b"10.0.0.20" in (node.files.read(LAYOUT.hosts) or b"")

    def test_peer_beyond_the_node_map_is_left_out(self, node):
        node.assign(a_domain(slot_count=18), slots=SLOTS, slot_count=36)
        node.join("c1")
        assert b"10.0.0.20" not in (node.files.read(LAYOUT.hosts) or b"")
        assert see(node).peers_known == 2

    def test_node_beyond_the_node_map_waits_with_a_reason(self, node):
        node.assign(a_domain(slot_count=18), slots=SLOTS, slot_count=36, slot=20)
        reply = node.join("c1").readiness
        assert (reply.is_ready, reply.reason) == (False, "DomainFull")
        assert "slot 20" in reply.message and "18 slots" in reply.message
        assert node.daemon.history == []


class TestWatch:
    def test_failed_queries_make_peers_unknown(self, node):
        """nvidia-imex-ctl -N hangs on dead peers: the last view must not stand for ever."""
        reports: list[object] = []
        watch = PeerMonitor(
            node.daemon,
            node.clock,
            node.supervisor,
            lambda: reports.append(node.status().domains[0]),
        )
        node.join("c1")
        node.daemon.view = ImexDomainStatus(own=2, connected=frozenset({5, 7}))
        watch.query_if_due()
        assert reports[-1].peers_connected == 2  # type: ignore[attr-defined]
        node.daemon.view = None
        for _ in range(UNKNOWN_AFTER):
            assert reports[-1].peers_connected == 2  # type: ignore[attr-defined]
            node.clock.advance(PEERS_S)
            watch.query_if_due()
        assert (reports[-1].peers_connected, reports[-1].reason) == (0, "PeersUnknown")  # type: ignore[attr-defined]
        node.daemon.view = ImexDomainStatus(own=2, connected=frozenset({5, 7}))
        node.clock.advance(PEERS_S)
        watch.query_if_due()
        assert (reports[-1].peers_connected, reports[-1].reason) == (2, "")  # type: ignore[attr-defined]

    def test_view_of_an_earlier_incarnation_is_dropped(self, node):
        watch = PeerMonitor(node.daemon, node.clock, node.supervisor)
        node.join("c1")
        node.daemon.view = ImexDomainStatus(own=2, connected=frozenset({5, 7}))
        watch.query_if_due()
        node.daemon.restart_by_hand()
        node.reconcile()
        node.daemon.view = ImexDomainStatus(own=2, connected=frozenset())
        node.clock.advance(0.1 * LASTING_S)
        watch.query_if_due()
        assert node.status().domains[0].peers_connected == 0
