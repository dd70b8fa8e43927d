"""A daemon that dies or hangs, and restarts of the supervisor and the node."""

from __future__ import annotations

from msgspec.structs import replace

from nvdra_core.api.fabric import ImexState
from nvdra_node.imex.model import AfterAbruptEnd, Policy
from tests.beds.memory.imex_node import LAYOUT, ImexNode, a_claim, a_domain


class TestAbruptEnd:
    def test_daemon_is_restarted_with_backoff_and_keeps_its_peers(self, node):
        node.serve()
        node.files.put(LAYOUT.persist / "persist.dat", b"peers")
        node.daemon.log_lines = "Xid 154"
        node.daemon.die()
        node.reconcile()
        assert node.daemon.history == ["start"]
        assert "Xid 154" in node.ask(a_claim("c1")).readiness.message
        node.clock.advance(1.1)
        node.reconcile()
        assert node.daemon.history == ["start", "start"]
        assert node.files.read(LAYOUT.persist / "persist.dat") == b"peers"
        node.daemon.die()
        node.reconcile()
        node.clock.advance(1.1)
        node.reconcile()
        assert node.daemon.history == ["start", "start"]
        node.clock.advance(1.0)
        node.reconcile()
        assert node.daemon.history == ["start"] * 3
        assert node.supervisor.snapshot.memory.restarts == 2

    def test_policy_hold_waits_for_release_of_claims(self):
        node = ImexNode(Policy(after_abrupt_end=AfterAbruptEnd.HOLD))
        node.serve()
        node.daemon.die()
        node.reconcile()
        node.clock.advance(3600)
        waiting = node.join("c2")
        assert waiting.readiness.reason == "ImexHeld" and "ns/claim-c1" in waiting.readiness.message
        assert node.daemon.history == ["start"]
        node.claims.leave("c1")
        node.reconcile()
        assert node.ask(a_claim("c2")).readiness.is_ready

    def test_recovery_is_cleared_for_another_domain(self, node):
        node.serve("A", "B")
        node.files.put(LAYOUT.persist / "persist.dat", b"peers of A")
        node.daemon.die()
        node.reconcile()
        node.claims.leave("c1")
        node.clock.advance(2)
        node.join("c2", "B")
        assert node.serves() == "B"
        assert node.files.read(LAYOUT.persist / "persist.dat") is None

    def test_failed_start_is_reported_with_log_lines(self, node):
        node.daemon.fails_to_start = True
        node.daemon.log_lines = "No matching network interface found"
        node.assign(a_domain())
        reply = node.join("c1")
        assert reply.readiness.reason == "ImexFailed"
        assert "No matching network interface found" in reply.readiness.message
        node.daemon.fails_to_start = False
        node.clock.advance(120)
        node.reconcile()
        assert node.ask(a_claim("c1")).readiness.is_ready

    def test_hanging_daemon_is_reported_and_not_killed(self, node):
        node.serve()
        node.daemon.state_now = ImexState.UNAVAILABLE
        node.reconcile()
        assert node.ask(a_claim("c1")).readiness.reason == "ImexUnresponsive"
        assert node.daemon.history == ["start"]


class TestRestartsOfTheSupervisor:
    def test_restart_does_not_touch_a_running_daemon(self, node):
        node.serve()
        for _ in range(5):
            node.restart()
            node.reconcile()
        assert node.daemon.history == ["start"]
        assert node.ask(a_claim("c1")).readiness.is_ready

    def test_daemon_is_not_touched_before_claims_are_known(self, node):
        node.serve("A", "B")
        node.files.remove(LAYOUT.state)  # /run was emptied by hand
        node.restart()
        node.reconcile()
        node.join("c2", "B")
        assert node.daemon.history == ["start"]
        prepared = replace(a_claim("c1", "A"), is_admitted=True)
        node.claims.sync([prepared, a_claim("c2", "B")])
        node.reconcile()
        assert node.daemon.history == ["start"]

    def test_claim_missing_in_two_syncs_is_removed(self, node):
        node.serve("A", "B")
        node.join("c2", "B")
        for _ in range(2):
            node.claims.sync([a_claim("c2", "B")])
            node.reconcile()
        assert node.serves() == "B"

    def test_claim_missing_in_one_sync_is_kept(self, node):
        node.serve()
        node.claims.sync([])
        node.claims.sync([a_claim("c1")])
        node.claims.sync([])
        assert set(node.claims.holders) == {"c1"}

    def test_end_during_a_restart_is_noticed(self, node):
        node.serve()
        node.daemon.die()
        node.restart()
        node.reconcile()
        assert node.supervisor.snapshot.memory.restarts == 1
        node.clock.advance(2)
        node.reconcile()
        assert node.ask(a_claim("c1")).readiness.is_ready

    def test_manual_restart_is_another_incarnation(self, node):
        node.serve()
        node.daemon.restart_by_hand()
        node.reconcile()
        memory = node.supervisor.snapshot.memory
        assert (memory.restarts, memory.started.invocation_id) == (1, "invocation-2")


class TestReboot:
    def test_reboot_starts_nothing_and_forgets_claims(self, node):
        node.serve()
        node.reboot()
        node.reconcile()
        assert node.daemon.history == ["start"] and node.claims.holders == {}

    def test_known_claim_is_served_after_reboot_without_controller(self, node):
        node.serve()
        node.reboot()
        assert node.join("c1").readiness.is_ready


class TestSystemdThatFails:
    def test_failed_stop_is_repeated(self, node):
        node.serve("A", "B")
        node.claims.leave("c1")
        node.join("c2", "B")
        node.daemon.refuses = True
        node.reconcile()
        node.daemon.refuses = False
        node.reconcile()
        assert node.serves() == "B"

    def test_last_state_stands_while_systemd_is_silent(self, node):
        node.serve()
        node.daemon.refuses = True
        node.reconcile()
        assert node.supervisor.snapshot.memory.started is not None


def test_unanswered_query_is_reported_with_its_cause(node):
    node.serve()
    node.daemon.state_now = ImexState.UNAVAILABLE
    node.daemon.ctl_problem = "nvidia-imex-ctl -q wrote 'unknown option -u'"
    reply = node.ask(a_claim("c1")).readiness
    assert reply.reason == "ImexUnresponsive" and "unknown option -u" in reply.message
