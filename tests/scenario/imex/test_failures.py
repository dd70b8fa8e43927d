"""Failures at unfavourable moments: no claim is ready without observation, and nothing due is forgotten."""

from __future__ import annotations

import json

import pytest

from nvdra_core.api.fabric import ImexState
from nvdra_core.runtime.clock import Deadline
from nvdra_node.imex.daemon.control import RELOAD_INTERVAL_S
from nvdra_node.imex.model import Holder, HostAddresses, Policy
from tests.beds.memory.imex_node import (
    CERTIFICATE_PATH,
    LAYOUT,
    SPEC_PATH,
    ImexNode,
    a_claim,
    a_domain,
    a_spec,
    slots,
)


class TestAdmission:
    def test_claim_waits_while_systemd_is_silent(self, node):
        node.serve()
        node.daemon.refuses = True
        reply = node.join("c2").readiness
        assert (reply.is_ready, reply.reason) == (False, "ImexUnknown")
        assert "systemctl show" in reply.message
        node.daemon.refuses = False
        assert node.ask(a_claim("c2")).readiness.is_ready

    def test_claim_without_time_for_a_pass_is_not_ready(self, node):
        node.serve()
        assert not node.claims.join(a_claim("c2"), Deadline(0, node.clock)).readiness.is_ready

    def test_claim_is_not_ready_before_a_pass_ends(self, node):
        node.serve()
        node.clock.on_wait = lambda: None
        assert not node.ask(a_claim("c2")).readiness.is_ready

    def test_claim_released_while_waiting_is_not_ready(self, node):
        node.assign(a_domain())

        def release_and_reconcile():
            node.claims.leave("c1")
            node.supervisor.reconcile_once()

        node.join("c0")
        node.clock.on_wait = release_and_reconcile
        reply = node.ask(a_claim("c1")).readiness
        assert (reply.is_ready, reply.reason) == (False, "ClaimLeft")

    def test_claim_is_not_ready_without_stored_admission(self, node):
        node.serve()
        node.daemon.state_now = ImexState.INITIALIZING
        assert not node.join("c2").readiness.is_ready
        node.daemon.state_now = ImexState.READY
        node.reconcile()
        node.files.full.add(LAYOUT.directory)
        reply = node.ask(a_claim("c2")).readiness
        assert (reply.is_ready, reply.reason) == (False, "StateNotWritten")
        node.files.full.clear()
        assert node.ask(a_claim("c2")).readiness.is_ready
        kept = json.loads(node.files.read(LAYOUT.state))["holders"]
        assert {h["uid"]: h["is_admitted"] for h in kept} == {"c1": True, "c2": True}


class TestReload:
    def test_silent_daemon_is_not_reloaded(self, node):
        """SIGUSR1 ends a process without its handler."""
        node.daemon.starts_as = ImexState.UNAVAILABLE
        node.assign(a_domain())
        node.join("c1")
        node.assign(a_domain(), slots=slots(2, 5, 7))
        node.reconcile()
        assert node.daemon.history == ["start"]
        node.daemon.state_now = ImexState.WAITING_FOR_RECOVERY
        node.reconcile()
        assert node.daemon.history == ["start", "reload"], "it may be waiting for that peer"

    @pytest.mark.parametrize(
        "change",
        [
            lambda node: node.assign(a_domain(), slots=slots(2, 5, 7)),
            lambda node: node.supervisor.reload_daemon(),
        ],
        ids=["peers", "certificate"],
    )
    def test_failed_reload_is_repeated(self, node, change):
        node.serve()
        node.daemon.refuses_to = {"kill"}
        change(node)
        node.reconcile()
        node.daemon.refuses_to = set()
        node.reconcile()
        assert node.daemon.history == ["start", "reload"]

    def test_failed_reload_is_repeated_after_a_restart(self, node):
        node.serve()
        node.daemon.refuses_to = {"kill"}
        node.assign(a_domain(), slots=slots(2, 5, 7))
        node.reconcile()
        node.daemon.refuses_to = set()
        node.restart()
        node.reconcile()
        assert node.daemon.history == ["start", "reload"]
        node.restart()
        node.clock.advance(60)
        node.reconcile()
        assert node.daemon.history == ["start", "reload"], "once"

    def test_certificate_written_before_a_restart_is_reloaded(self):
        node = ImexNode(Policy(needs_encryption=True))
        node.files.put(CERTIFICATE_PATH, b"first")
        node.serve()
        node.files.put(CERTIFICATE_PATH, b"second")  # and the supervisor died before the reload
        node.restart()
        node.reconcile()
        assert node.daemon.history == ["start", "reload"]

    def test_peers_that_join_together_are_one_reload(self, node):
        node.serve()
        pauses_s = []
        for number in range(6, 12):
            node.assign(a_domain(), slots=slots(2, *range(5, number)))
            node.reconcile(1)
            pauses_s.append(node.supervisor.reconcile_once())
            node.clock.advance(0.2)
        assert node.daemon.history == ["start", "reload"]
        assert max(pauses_s[1:]) <= RELOAD_INTERVAL_S, "the reload is due in time"
        node.clock.advance(RELOAD_INTERVAL_S)
        node.reconcile()
        assert node.daemon.history == ["start", "reload", "reload"]
        assert b"10.0.0.10" in node.files.read(LAYOUT.hosts)

    def test_start_clears_a_due_reload(self, node):
        node.serve("A", "B")
        node.daemon.refuses_to = {"kill"}
        node.supervisor.reload_daemon()
        node.reconcile()
        node.daemon.refuses_to = set()
        node.claims.leave("c1")
        node.join("c2", "B")
        assert node.daemon.history[-1] == "start" and node.serves() == "B"


class TestStart:
    @pytest.mark.parametrize("step", range(1, 16))
    def test_failed_write_before_start_is_no_end_of_the_daemon(self, step):
        node = ImexNode()
        node.files.faults.clear()
        node.files.faults.fail_at = step
        node.assign(a_domain())
        reply = node.join("c1").readiness
        assert reply.is_ready or "ended by itself" not in reply.message, reply
        node.clock.advance(120)
        node.reconcile()
        assert node.ask(a_claim("c1")).readiness.is_ready
        assert node.supervisor.snapshot.memory.restarts == 0
        assert node.daemon.history == ["start"]

    def test_full_disk_keeps_claims_waiting(self, node):
        node.files.full.add(LAYOUT.directory)
        node.assign(a_domain())
        for _ in range(3):
            reply = node.join("c1").readiness
            node.clock.advance(60)
        assert not reply.is_ready and node.daemon.history == []
        assert node.supervisor.snapshot.memory.restarts == 0

    def test_refused_start_is_reported_with_systemctls_error(self, node):
        node.daemon.refuses_to = {"start"}
        node.assign(a_domain())
        reply = node.join("c1").readiness
        assert reply.reason == "ImexFailed" and "systemctl start" in reply.message
        node.daemon.refuses_to = set()
        node.clock.advance(120)
        node.reconcile()
        assert node.ask(a_claim("c1")).readiness.is_ready


class TestDamagedRecords:
    """The plugin syncs these claims without a domain."""

    def test_claims_without_domain_keep_the_daemon(self, node):
        node.serve("A", "B")
        for _ in range(3):
            node.claims.sync([Holder(0.0, "", "", "", "c1", True)])
            node.clock.advance(60)
            node.reconcile()
        assert node.join("c2", "B").readiness.reason == "OtherDomainActive"
        assert node.daemon.history == ["start"]
        for _ in range(2):  # its pod has ended
            node.claims.sync([a_claim("c2", "B")])
        assert node.ask(a_claim("c2", "B")).readiness.is_ready

    def test_claims_without_domain_keep_an_unknown_daemon(self, node):
        node.serve("A", "B")
        node.files.remove(LAYOUT.state)
        node.restart()
        for _ in range(3):
            node.claims.sync([Holder(0.0, "", "", "", "c1", True)])
            node.clock.advance(60)
            node.reconcile()
        assert not node.join("c2", "B").readiness.is_ready
        assert node.daemon.history == ["start"]
        assert [uid for uid, _ in node.supervisor.snapshot.domains] == ["B"]


class TestInputs:
    def test_unstored_spec_is_stored_later(self, node):
        node.files.full.add(SPEC_PATH.parent)
        node.assign(a_domain())
        assert node.files.read(SPEC_PATH) is None
        node.files.full.clear()
        node.supervisor.set_spec(a_spec(a_domain()), 1)  # our own status write
        assert b'"A"' in node.files.read(SPEC_PATH)

    def test_claim_waits_for_an_address(self):
        node = ImexNode(address="")
        node.assign(a_domain())
        assert node.join("c1").readiness.reason == "NoAddress"
        node.supervisor.set_addresses(HostAddresses(chosen="10.0.0.2"))
        assert node.ask(a_claim("c1")).readiness.is_ready
        assert b"10.0.0.2" in (node.files.read(LAYOUT.hosts) or b"")
