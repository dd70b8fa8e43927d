"""The node's one IMEX daemon while claims join and leave."""

from __future__ import annotations

import pytest

from nvdra_core.api.fabric import ImexState, Isolation
from nvdra_node.imex.model import Fabric, Policy
from tests.beds.memory.imex_node import LAYOUT, NO_FABRIC, ImexNode, a_claim, a_domain


class TestFirstClaim:
    def test_no_daemon_runs_without_a_claim(self, node):
        node.assign(a_domain())
        node.reconcile()
        assert node.daemon.history == []

    def test_first_claim_starts_the_daemon(self, node):
        node.assign(a_domain())
        reply = node.join("c1")
        assert reply.readiness.is_ready and reply.has_fabric and reply.domain.channel == 0
        assert node.daemon.history == ["start"]
        config = node.files.read(LAYOUT.config).decode()
        assert "SERVER_PORT=50065\n" in config and "BIND_INTERFACE_IP=10.0.0.2\n" in config

    def test_hosts_file_has_only_the_filled_slots(self, node):
        node.serve()
        assert len(node.files.read(LAYOUT.nodes).splitlines()) == 18
        hosts = node.files.read(LAYOUT.hosts).decode()
        assert [line.split()[0] for line in hosts.splitlines() if "imex-" in line] == [
            "10.0.0.2",
            "10.0.0.5",
        ]
        assert node.files.read(LAYOUT.nsswitch) == b"hosts: files\n"

    def test_claim_is_not_ready_before_imex(self, node):
        node.daemon.starts_as = ImexState.WAITING_FOR_RECOVERY
        node.assign(a_domain())
        reply = node.join("c1")
        assert not reply.readiness.is_ready
        assert reply.readiness.message == "nvidia-imex is WAITING_FOR_RECOVERY"

    def test_reply_is_of_a_pass_after_the_join(self, node):
        node.serve()
        node.daemon.die()
        assert not node.join("c2").readiness.is_ready


class TestWhatIsMissing:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda n: n.supervisor.set_spec(None, 0), "WaitingForController"),
            (lambda n: n.assign(a_domain("B")), "WaitingForDomain"),
            (lambda n: n.assign(a_domain(), slot=None), "WaitingForSlot"),
            (lambda n: n.assign(a_domain(), clique_id="other.1"), "WaitingForSlot"),
            (lambda n: n.supervisor.set_fabric(Fabric()), "WaitingForFabric"),
            (lambda n: setattr(n.daemon, "foreign", "nvidia-imex.service"), "ForeignImex"),
        ],
    )
    def test_waiting_claim_gets_the_reason(self, node, change, reason):
        node.assign(a_domain())
        change(node)
        reply = node.join("c1")
        assert (reply.readiness.is_ready, reply.readiness.reason) == (False, reason)
        assert reply.readiness.message
        assert "start" not in node.daemon.history

    def test_waiting_claim_continues_after_a_spec(self, node):
        node.join("c1")
        node.assign(a_domain())
        node.reconcile()
        assert node.ask(a_claim("c1")).readiness.is_ready

    def test_node_without_fabric_is_ready_without_imex(self, node):
        node.supervisor.set_fabric(NO_FABRIC)
        node.assign(a_domain(), slot=None, clique_id="")
        reply = node.join("c1")
        assert reply.readiness.is_ready and not reply.has_fabric
        assert node.daemon.history == []

    def test_encryption_waits_for_the_certificate(self):
        node = ImexNode(Policy(needs_encryption=True))
        node.assign(a_domain())
        assert node.join("c1").readiness.reason == "WaitingForCertificate"


class TestTenants:
    def test_claim_of_another_namespace_is_refused(self, node):
        node.assign(a_domain())
        reply = node.join("c1", namespace="attacker")
        assert "own namespace only" in reply.refused
        assert node.daemon.history == [] and node.claims.holders == {}

    def test_claim_is_refused_when_its_domain_becomes_known(self, node):
        node.join("c1", namespace="attacker")
        node.assign(a_domain())
        node.reconcile()
        assert node.daemon.history == []
        assert node.ask(a_claim("c1", namespace="attacker")).refused
        assert node.claims.holders == {}

    def test_domain_in_deletion_keeps_only_admitted_claims(self, node):
        node.serve()
        node.assign(a_domain(deleting=True))
        node.reconcile()
        assert "being deleted" in node.join("c2").refused
        assert node.ask(a_claim("c1")).readiness.is_ready


class TestTwoDomains:
    def test_running_domain_is_not_stopped_for_another(self, node):
        node.serve("A", "B")
        other = node.join("c2", "B")
        assert (
            other.readiness.reason == "OtherDomainActive"
            and "ns/claim-c1" in other.readiness.message
        )
        assert node.daemon.history == ["start"]

    def test_next_domain_starts_after_the_last_release(self, node):
        node.serve("A", "B")
        node.join("c2", "B")
        node.claims.leave("c1")
        node.reconcile()
        assert node.serves() == "B"
        assert node.daemon.history == ["start", "stop", "start"]

    def test_claims_of_one_domain_share_its_daemon(self, node):
        node.assign(a_domain())
        for uid in ("c1", "c2", "c3"):
            assert node.join(uid).readiness.is_ready
        node.claims.leave("c2")
        node.claims.leave("c1")
        node.reconcile()
        assert node.daemon.history == ["start"]

    def test_channel_isolation_shares_the_daemon(self, node):
        shared = {"isolation": Isolation.CHANNEL, "port": 50000}
        node.assign(a_domain("A", channel=3, **shared), a_domain("B", channel=4, **shared))
        first, second = node.join("c1", "A"), node.join("c2", "B")
        assert first.readiness.is_ready and second.readiness.is_ready
        assert (first.domain.channel, second.domain.channel) == (3, 4)
        assert node.daemon.history == ["start"] and node.serves() == ""

    def test_channel_isolation_runs_the_daemon_without_a_domain(self, node):
        node.assign(shared_port=50000)
        node.reconcile()
        assert node.daemon.history == ["start"] and node.serves() == ""
        domain = a_domain("A", channel=3, isolation=Isolation.CHANNEL, port=50000)
        node.assign(domain, shared_port=50000)
        assert node.join("c1", "A").readiness.is_ready
        node.claims.leave("c1")
        node.assign(shared_port=50000)
        node.clock.advance(1000)
        node.reconcile()
        assert node.daemon.history == ["start"]

    def test_release_of_a_waiting_claim_frees_the_daemon(self, node):
        node.assign(a_domain("A"), a_domain("B"))
        node.daemon.starts_as = ImexState.WAITING_FOR_PEERS
        node.join("c1", "A")
        node.join("c2", "B")
        node.claims.leave("c1")
        node.reconcile()
        assert node.serves() == "B"

    def test_died_daemons_node_stays_with_its_claims(self, node):
        """Their containers still have the channel, which the next domain would get."""
        node.serve("A", "B")
        node.daemon.die()
        node.reconcile()
        node.assign(a_domain("B"))
        node.clock.advance(100)
        reply = node.join("c2", "B").readiness
        assert (reply.is_ready, reply.reason) == (False, "OtherDomainActive")
        assert "ns/claim-c1" in reply.message and node.daemon.history == ["start"]
        node.claims.leave("c1")
        assert node.ask(a_claim("c2", "B")).readiness.is_ready


class TestEndOfUse:
    def test_unused_daemon_lingers_for_the_next_job(self, node):
        node.serve()
        node.claims.leave("c1")
        node.reconcile()
        assert node.daemon.history == ["start"]
        assert node.join("c2").readiness.is_ready
        assert node.daemon.history == ["start"]

    def test_unused_daemon_is_stopped_after_the_linger(self, node):
        node.serve()
        node.claims.leave("c1")
        node.reconcile()
        node.clock.advance(31)
        node.reconcile()
        assert node.daemon.history == ["start", "stop"]
        node.clock.advance(600)
        node.reconcile()
        assert node.daemon.history == ["start", "stop"]

    def test_domain_removed_from_spec_keeps_running_claims(self, node):
        node.serve()
        node.assign()
        node.reconcile()
        assert node.daemon.history == ["start"]
        assert node.ask(a_claim("c1")).readiness.is_ready
