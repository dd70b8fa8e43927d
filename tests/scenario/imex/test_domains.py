"""State, event, state: what the supervisor does with the node's one IMEX daemon."""

from __future__ import annotations

import pytest

from nvdra_core.api.fabric import FabricState, ImexState, Isolation
from nvdra_core.value import replace
from nvdra_node.imex.model import AfterAbruptEnd, Fabric, Mode, Policy
from tests.scenario.imex.node import (
    CLUSTER,
    FABRIC,
    LAYOUT,
    NO_FABRIC,
    ImexNode,
    a_claim,
    a_domain,
)


@pytest.fixture
def node() -> ImexNode:
    return ImexNode()


class TestFirstClaim:
    def test_nothing_runs_until_a_claim_needs_it(self, node):
        node.assign(a_domain())
        node.turn()
        assert node.daemon.history == []

    def test_the_first_claim_starts_it_and_is_told_ready(self, node):
        node.assign(a_domain())
        joined = node.join("c1")
        assert joined.readiness.is_ready and joined.has_fabric and joined.domain.channel == 0
        assert node.daemon.history == ["start"]
        config = node.files.read(LAYOUT.config).decode()
        assert "SERVER_PORT=50065\n" in config and "BIND_INTERFACE_IP=10.0.0.2\n" in config

    def test_the_node_list_names_all_slots_and_the_hosts_file_the_filled_ones(self, node):
        node.assign(a_domain())
        node.join("c1")
        assert len(node.files.read(LAYOUT.nodes).splitlines()) == 18
        hosts = node.files.read(LAYOUT.hosts).decode()
        assert [line.split()[0] for line in hosts.splitlines() if "imex-" in line] == [
            "10.0.0.2",
            "10.0.0.5",
        ]
        assert node.files.read(LAYOUT.nsswitch) == b"hosts: files\n"

    def test_it_is_not_told_ready_before_imex_is(self, node):
        node.daemon.starts_as = ImexState.WAITING_FOR_RECOVERY
        node.assign(a_domain())
        joined = node.join("c1")
        assert not joined.readiness.is_ready
        assert joined.readiness.message == "nvidia-imex is WAITING_FOR_RECOVERY"

    def test_the_answer_is_of_a_turn_that_began_after_the_question(self, node):
        node.assign(a_domain())
        node.join("c1")
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
    def test_the_claim_is_told_what_it_waits_for(self, node, change, reason):
        node.assign(a_domain())
        change(node)
        joined = node.join("c1")
        assert (joined.readiness.is_ready, joined.readiness.reason) == (False, reason)
        assert joined.readiness.message
        assert "start" not in node.daemon.history

    def test_it_goes_on_by_itself_once_the_controller_has_spoken(self, node):
        node.join("c1")
        node.assign(a_domain())
        node.turn()
        assert node.ask(a_claim("c1")).readiness.is_ready

    def test_a_node_without_fabric_is_ready_without_imex(self, node):
        node.supervisor.set_fabric(NO_FABRIC)
        node.assign(a_domain(), slot=None, clique_id="")
        joined = node.join("c1")
        assert joined.readiness.is_ready and not joined.has_fabric
        assert node.daemon.history == []

    def test_encryption_waits_for_the_certificate(self):
        node = ImexNode(Policy(needs_encryption=True))
        node.assign(a_domain())
        assert node.join("c1").readiness.reason == "WaitingForCertificate"


class TestTenants:
    def test_a_claim_of_another_namespace_is_refused_and_holds_nothing(self, node):
        node.assign(a_domain())
        joined = node.join("c1", namespace="attacker")
        assert "own namespace only" in joined.refused
        assert node.daemon.history == [] and node.supervisor._holders == {}

    def test_it_is_refused_also_when_the_domain_becomes_known_later(self, node):
        node.join("c1", namespace="attacker")
        node.assign(a_domain())
        node.turn()
        assert node.ask(a_claim("c1", namespace="attacker")).refused
        assert node.supervisor._holders == {}

    def test_a_domain_that_is_being_deleted_takes_no_new_claim_and_keeps_the_old(self, node):
        node.assign(a_domain())
        node.join("c1")
        node.assign(a_domain(deleting=True))
        node.turn()
        assert "being deleted" in node.join("c2").refused
        assert node.ask(a_claim("c1")).readiness.is_ready


class TestTwoDomains:
    def test_the_running_one_is_never_ended_for_another(self, node):
        node.assign(a_domain("A"), a_domain("B"))
        node.join("c1", "A")
        other = node.join("c2", "B")
        assert (
            other.readiness.reason == "OtherDomainActive"
            and "ns/claim-c1" in other.readiness.message
        )
        assert node.daemon.history == ["start"]

    def test_the_next_domain_starts_at_once_when_the_last_claim_goes(self, node):
        node.assign(a_domain("A"), a_domain("B"))
        node.join("c1", "A")
        node.join("c2", "B")
        node.supervisor.leave("c1")
        node.turn()
        assert node.serves() == "B"
        assert node.daemon.history == ["start", "stop", "start"]

    def test_several_claims_of_one_domain_share_its_daemon(self, node):
        node.assign(a_domain())
        for uid in ("c1", "c2", "c3"):
            assert node.join(uid).readiness.is_ready
        node.supervisor.leave("c2")
        node.supervisor.leave("c1")
        node.turn()
        assert node.daemon.history == ["start"]

    def test_with_channel_isolation_two_domains_share_one_daemon(self, node):
        shared = {"isolation": Isolation.CHANNEL, "port": 50000}
        node.assign(a_domain("A", channel=3, **shared), a_domain("B", channel=4, **shared))
        first, second = node.join("c1", "A"), node.join("c2", "B")
        assert first.readiness.is_ready and second.readiness.is_ready
        assert (first.domain.channel, second.domain.channel) == (3, 4)
        assert node.daemon.history == ["start"] and node.serves() == ""

    def test_with_channel_isolation_it_runs_from_boot_on_without_any_domain(self, node):
        node.assign(shared_port=50000)
        node.turn()
        assert node.daemon.history == ["start"] and node.serves() == ""
        domain = a_domain("A", channel=3, isolation=Isolation.CHANNEL, port=50000)
        node.assign(domain, shared_port=50000)
        assert node.join("c1", "A").readiness.is_ready
        node.supervisor.leave("c1")
        node.assign(shared_port=50000)
        node.clock.advance(1000)
        node.turn()
        assert node.daemon.history == ["start"]

    def test_a_claim_that_never_got_ready_does_not_keep_the_daemon_from_others(self, node):
        node.assign(a_domain("A"), a_domain("B"))
        node.daemon.starts_as = ImexState.WAITING_FOR_PEERS
        node.join("c1", "A")
        node.join("c2", "B")
        node.supervisor.leave("c1")
        node.turn()
        assert node.serves() == "B"

    def test_a_node_whose_imex_died_is_not_given_away_under_the_claims_it_had(self, node):
        """Their containers still have the channel, which would be the next domain's."""
        node.assign(a_domain("A"), a_domain("B"))
        node.join("c1", "A")
        node.daemon.die()
        node.turn()
        node.assign(a_domain("B"))
        node.clock.advance(100)
        told = node.join("c2", "B").readiness
        assert (told.is_ready, told.reason) == (False, "OtherDomainActive")
        assert "ns/claim-c1" in told.message and node.daemon.history == ["start"]
        node.supervisor.leave("c1")
        assert node.ask(a_claim("c2", "B")).readiness.is_ready


class TestEndOfUse:
    def test_it_lingers_for_the_next_job_of_the_domain(self, node):
        node.assign(a_domain())
        node.join("c1")
        node.supervisor.leave("c1")
        node.turn()
        assert node.daemon.history == ["start"]
        assert node.join("c2").readiness.is_ready
        assert node.daemon.history == ["start"]

    def test_after_the_linger_it_is_stopped(self, node):
        node.assign(a_domain())
        node.join("c1")
        node.supervisor.leave("c1")
        node.turn()
        node.clock.advance(31)
        node.turn()
        assert node.daemon.history == ["start", "stop"]
        node.clock.advance(600)
        node.turn()
        assert node.daemon.history == ["start", "stop"]

    def test_the_domain_may_vanish_from_the_spec_while_its_claims_run(self, node):
        node.assign(a_domain())
        node.join("c1")
        node.assign()
        node.turn()
        assert node.daemon.history == ["start"]
        assert node.ask(a_claim("c1")).readiness.is_ready


class TestAbruptEnd:
    def test_it_is_started_again_with_growing_pauses_and_keeps_its_peers(self, node):
        node.assign(a_domain())
        node.join("c1")
        node.files.put(LAYOUT.persist / "persist.dat", b"peers")
        node.daemon.words = "Xid 154"
        node.daemon.die()
        node.turn()
        assert node.daemon.history == ["start"]
        assert "Xid 154" in node.ask(a_claim("c1")).readiness.message
        node.clock.advance(1.1)
        node.turn()
        assert node.daemon.history == ["start", "start"]
        assert node.files.read(LAYOUT.persist / "persist.dat") == b"peers"
        node.daemon.die()
        node.turn()
        node.clock.advance(1.1)
        node.turn()
        assert node.daemon.history == ["start", "start"]
        node.clock.advance(1.0)
        node.turn()
        assert node.daemon.history == ["start"] * 3
        assert node.supervisor.snapshot.memory.restarts == 2

    def test_policy_hold_waits_until_its_claims_are_gone(self):
        node = ImexNode(Policy(after_abrupt_end=AfterAbruptEnd.HOLD))
        node.assign(a_domain())
        node.join("c1")
        node.daemon.die()
        node.turn()
        node.clock.advance(3600)
        waiting = node.join("c2")
        assert waiting.readiness.reason == "ImexHeld" and "ns/claim-c1" in waiting.readiness.message
        assert node.daemon.history == ["start"]
        node.supervisor.leave("c1")
        node.turn()
        assert node.ask(a_claim("c2")).readiness.is_ready

    def test_peers_of_another_domain_are_not_waited_for(self, node):
        node.assign(a_domain("A"), a_domain("B"))
        node.join("c1", "A")
        node.files.put(LAYOUT.persist / "persist.dat", b"peers of A")
        node.daemon.die()
        node.turn()
        node.supervisor.leave("c1")
        node.clock.advance(2)
        node.join("c2", "B")
        assert node.serves() == "B"
        assert node.files.read(LAYOUT.persist / "persist.dat") is None

    def test_a_start_that_fails_is_told_with_its_last_words(self, node):
        node.daemon.fails_to_start = True
        node.daemon.words = "No matching network interface found"
        node.assign(a_domain())
        joined = node.join("c1")
        assert joined.readiness.reason == "ImexFailed"
        assert "No matching network interface found" in joined.readiness.message
        node.daemon.fails_to_start = False
        node.clock.advance(120)
        node.turn()
        assert node.ask(a_claim("c1")).readiness.is_ready

    def test_a_hanging_daemon_is_told_and_not_killed(self, node):
        node.assign(a_domain())
        node.join("c1")
        node.daemon.state_now = ImexState.UNAVAILABLE
        node.turn()
        assert node.ask(a_claim("c1")).readiness.reason == "ImexUnresponsive"
        assert node.daemon.history == ["start"]


class TestRestartsOfTheSupervisor:
    def test_a_running_daemon_is_not_touched(self, node):
        node.assign(a_domain())
        node.join("c1")
        for _ in range(5):
            node.restart()
            node.turn()
        assert node.daemon.history == ["start"]
        assert node.ask(a_claim("c1")).readiness.is_ready

    def test_it_is_not_touched_before_the_claims_are_known(self, node):
        node.assign(a_domain("A"), a_domain("B"))
        node.join("c1", "A")
        node.files.remove(LAYOUT.state)  # somebody emptied /run
        node.restart()
        node.turn()
        node.join("c2", "B")
        assert node.daemon.history == ["start"]
        node.supervisor.sync([a_claim("c1", "A"), a_claim("c2", "B")])
        node.turn()
        assert node.daemon.history == ["start"]

    def test_a_claim_without_a_record_does_not_hold_the_node_for_ever(self, node):
        node.assign(a_domain("A"), a_domain("B"))
        node.join("c1", "A")
        node.join("c2", "B")
        for _ in range(2):
            node.supervisor.sync([a_claim("c2", "B")])
            node.turn()
        assert node.serves() == "B"

    def test_a_claim_that_is_just_coming_survives_one_list_without_it(self, node):
        node.assign(a_domain())
        node.join("c1")
        node.supervisor.sync([])
        node.supervisor.sync([a_claim("c1")])
        node.supervisor.sync([])
        assert set(node.supervisor._holders) == {"c1"}

    def test_an_end_while_nobody_looked_is_noticed(self, node):
        node.assign(a_domain())
        node.join("c1")
        node.daemon.die()
        node.restart()
        node.turn()
        assert node.supervisor.snapshot.memory.restarts == 1
        node.clock.advance(2)
        node.turn()
        assert node.ask(a_claim("c1")).readiness.is_ready

    def test_a_restart_by_hand_is_another_incarnation(self, node):
        node.assign(a_domain())
        node.join("c1")
        node.daemon.restart_by_hand()
        node.turn()
        memory = node.supervisor.snapshot.memory
        assert (memory.restarts, memory.started.invocation_id) == (1, "invocation-2")


class TestReboot:
    def test_nothing_is_started_and_nobody_holds_anything(self, node):
        node.assign(a_domain())
        node.join("c1")
        node.reboot()
        node.turn()
        assert node.daemon.history == ["start"] and node.supervisor._holders == {}

    def test_a_known_claim_is_served_again_without_the_controller(self, node):
        node.assign(a_domain())
        node.join("c1")
        node.reboot()
        assert node.join("c1").readiness.is_ready


class TestPeers:
    def test_a_new_peer_is_told_in_place_and_at_once(self, node):
        from nvdra_core.api.fabric import FabricSlot

        node.assign(a_domain())
        node.join("c1")
        size = len(node.files.read(LAYOUT.hosts))
        slots = tuple(
            FabricSlot(index=i, node_name=f"n{i}", address=f"10.0.0.{i}") for i in (2, 5, 7)
        )
        node.assign(a_domain(), slots=slots)
        node.turn()
        assert node.daemon.history == ["start", "reload"]
        assert b"10.0.0.7" in node.files.read(LAYOUT.hosts)
        assert len(node.files.read(LAYOUT.hosts)) == size

    def test_only_members_of_the_domain_are_looked_for(self, node):
        node.assign(a_domain(members=(2,)))
        node.join("c1")
        assert b"10.0.0.5" not in node.files.read(LAYOUT.hosts)

    def test_a_changed_slot_waits_for_the_claims_that_run(self, node):
        node.assign(a_domain())
        node.join("c1")
        node.assign(a_domain(), slot=9)
        node.turn()
        assert node.daemon.history == ["start"]
        assert node.ask(a_claim("c1")).readiness.reason == "SlotChanged"
        node.supervisor.leave("c1")
        assert node.join("c2").readiness.is_ready
        assert node.daemon.history == ["start", "stop", "start"]


class TestFabricThatChanges:
    def test_a_lost_or_changed_clique_is_told_and_disturbs_nobody(self, node):
        node.assign(a_domain())
        node.join("c1")
        for fabric in (
            replace(FABRIC, clique_id=f"{CLUSTER}.5"),
            Fabric(state=FabricState.FAILED, message="GPU-3: link down"),
            Fabric(state=FabricState.IN_PROGRESS),
        ):
            node.supervisor.set_fabric(fabric)
            node.turn()
            assert node.daemon.history == ["start"]
            assert not node.join("c2").readiness.is_ready
            node.supervisor.leave("c2")
        node.supervisor.set_fabric(FABRIC)
        node.turn()
        assert node.ask(a_claim("c1")).readiness.is_ready

    def test_a_broken_fabric_is_told_with_its_cause(self, node):
        node.assign(a_domain())
        node.supervisor.set_fabric(Fabric(state=FabricState.FAILED, message="GPU-3: link down"))
        told = node.join("c1").readiness
        assert told.reason == "FabricFailed" and "GPU-3: link down" in told.message


class TestSystemdThatFails:
    def test_a_stop_that_fails_is_repeated(self, node):
        node.assign(a_domain("A"), a_domain("B"))
        node.join("c1", "A")
        node.supervisor.leave("c1")
        node.join("c2", "B")
        node.daemon.refuses = True
        node.turn()
        node.daemon.refuses = False
        node.turn()
        assert node.serves() == "B"

    def test_the_last_state_stands_while_systemd_does_not_answer(self, node):
        node.assign(a_domain())
        node.join("c1")
        node.daemon.refuses = True
        node.turn()
        assert node.supervisor.snapshot.memory.started is not None


class TestHostManaged:
    def test_the_hosts_own_daemon_is_looked_at_and_never_touched(self):
        node = ImexNode(Policy(mode=Mode.HOST_MANAGED))
        node.assign(a_domain(), slot=None)
        assert node.join("c1").readiness.reason == "HostImexNotReady"
        node.daemon.restart_by_hand()
        node.turn()
        assert node.ask(a_claim("c1")).readiness.is_ready
        assert node.daemon.history == []
