"""Peers, fabric and hostManaged mode around the node's IMEX daemon."""

from __future__ import annotations

from msgspec.structs import replace

from nvdra_core.api.fabric import FabricState
from nvdra_node.imex.model import Fabric, Mode, Policy
from nvdra_node.imex.schedule import STARTING_POLL_S, STEADY_POLL_S
from tests.beds.memory.imex_node import CLUSTER, FABRIC, LAYOUT, ImexNode, a_claim, a_domain, slots


class TestPeers:
    def test_new_peer_is_added_in_place_and_reloaded(self, node):
        node.serve()
        size = len(node.files.read(LAYOUT.hosts))
        node.assign(a_domain(), slots=slots(2, 5, 7))
        node.reconcile()
        assert node.daemon.history == ["start", "reload"]
        assert b"10.0.0.7" in node.files.read(LAYOUT.hosts)
        assert len(node.files.read(LAYOUT.hosts)) == size

    def test_hosts_file_has_only_members_of_the_domain(self, node):
        node.assign(a_domain(members=(2,)))
        node.join("c1")
        assert b"10.0.0.5" not in node.files.read(LAYOUT.hosts)

    def test_changed_slot_waits_for_running_claims(self, node):
        node.serve()
        node.assign(a_domain(), slot=9)
        node.reconcile()
        assert node.daemon.history == ["start"]
        assert node.ask(a_claim("c1")).readiness.reason == "SlotChanged"
        node.claims.leave("c1")
        assert node.join("c2").readiness.is_ready
        assert node.daemon.history == ["start", "stop", "start"]


class TestFabricThatChanges:
    def test_lost_clique_is_reported_and_leaves_claims_alone(self, node):
        node.serve()
        for fabric in (
            replace(FABRIC, clique_id=f"{CLUSTER}.5"),
            Fabric(state=FabricState.FAILED, message="GPU-3: link down"),
            Fabric(state=FabricState.IN_PROGRESS),
        ):
            node.supervisor.set_fabric(fabric)
            node.reconcile()
            assert node.daemon.history == ["start"]
            assert not node.join("c2").readiness.is_ready
            node.claims.leave("c2")
        node.supervisor.set_fabric(FABRIC)
        node.reconcile()
        assert node.ask(a_claim("c1")).readiness.is_ready

    def test_broken_fabric_is_reported_with_its_cause(self, node):
        node.assign(a_domain())
        node.supervisor.set_fabric(Fabric(state=FabricState.FAILED, message="GPU-3: link down"))
        reply = node.join("c1").readiness
        assert reply.reason == "FabricFailed" and "GPU-3: link down" in reply.message


class TestHostManaged:
    def test_hosts_daemon_is_observed_and_never_touched(self):
        node = ImexNode(Policy(mode=Mode.HOST_MANAGED))
        node.assign(a_domain(), slot=None)
        assert node.join("c1").readiness.reason == "HostImexNotReady"
        node.daemon.restart_by_hand()
        node.reconcile()
        assert node.ask(a_claim("c1")).readiness.is_ready
        assert node.daemon.history == []

    def test_hosts_daemon_serves_one_domain_at_a_time(self):
        node = ImexNode(Policy(mode=Mode.HOST_MANAGED))
        node.assign(a_domain("A"), a_domain("B"), slot=None)
        node.daemon.restart_by_hand()
        node.reconcile()
        assert node.ask(a_claim("c1")).readiness.is_ready
        reply = node.ask(a_claim("c2", "B")).readiness
        assert (reply.is_ready, reply.reason) == (False, "OtherDomainActive")
        assert "c1" in reply.message
        assert node.ask(a_claim("c3")).readiness.is_ready, "claims of one domain share it"
        node.claims.leave("c1")
        node.claims.leave("c3")
        assert node.ask(a_claim("c2", "B")).readiness.is_ready

    def test_hosts_daemon_is_polled_often_while_a_claim_waits(self):
        node = ImexNode(Policy(mode=Mode.HOST_MANAGED))
        node.assign(a_domain(), slot=None)
        node.join("c1")
        assert max(node.supervisor.reconcile_once() for _ in range(50)) <= STARTING_POLL_S
        node.daemon.restart_by_hand()
        node.ask(a_claim("c1"))
        assert node.supervisor.reconcile_once() <= STEADY_POLL_S
