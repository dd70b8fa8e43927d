"""The safety rules of ``decide`` hold after every step of random histories of claims, faults and specs."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nvdra_core.api.fabric import ImexState
from nvdra_core.runtime.clock import Deadline
from nvdra_node.imex.model import AfterAbruptEnd, Policy
from tests.beds.memory.imex_node import LAYOUT, ImexNode, a_claim, a_domain

DOMAINS = st.sampled_from("AB")
CLAIMS = st.sampled_from([f"c{n}" for n in range(4)])
STATES = st.sampled_from(
    [ImexState.READY, ImexState.INITIALIZING, ImexState.WAITING_FOR_RECOVERY, ImexState.UNAVAILABLE]
)


class Node(RuleBasedStateMachine):
    """The shipped supervisor with a fake daemon, and its invariants."""

    @initialize(policy=st.sampled_from(AfterAbruptEnd))
    def begin(self, policy):
        self.node = ImexNode(Policy(after_abrupt_end=policy))
        self.node.assign(a_domain("A"), a_domain("B"))
        self.promised: dict[str, str] = {}
        """Admitted claims that were not released: claim -> domain."""
        self.of_claim: dict[str, str] = {}
        self.before: set[str] = set()
        """Claims admitted before the last step."""
        self.did = 0
        self.served = ""

    @rule(uid=CLAIMS, domain=DOMAINS, has_time=st.booleans())
    def join(self, uid, domain, has_time):
        domain = self.of_claim.setdefault(uid, domain)
        clock = self.node.clock
        deadline = Deadline(0.35 if has_time else 0.0, clock)
        if not self.node.claims.join(a_claim(uid, domain), deadline).readiness.is_ready:
            return
        self.promised[uid] = domain
        daemon = self.node.daemon
        assert has_time and not daemon.refuses
        assert daemon.unit.is_running and daemon.state_now is ImexState.READY
        kept = json.loads(self.node.files.read(LAYOUT.state) or b"")["holders"]
        assert uid in {holder["uid"] for holder in kept if holder["is_admitted"]}

    @rule(uid=CLAIMS)
    def leave(self, uid):
        self.node.claims.leave(uid)
        self.promised.pop(uid, None)
        self.of_claim.pop(uid, None)

    @rule(seconds=st.sampled_from([0.5, 5.0, 40.0]))
    def time_passes(self, seconds):
        self.node.clock.advance(seconds)
        self.node.reconcile()

    @rule(state=STATES)
    def imex_state_changes(self, state):
        self.node.daemon.state_now = self.node.daemon.starts_as = state
        self.node.reconcile()

    @precondition(lambda self: self.node.daemon.unit.is_running)
    @rule()
    def imex_dies(self):
        self.node.daemon.die()
        self.node.reconcile()

    @precondition(lambda self: self.node.daemon.unit.is_running)
    @rule()
    def imex_is_restarted_by_others(self):
        self.node.daemon.restart_by_hand()
        self.node.reconcile()

    @rule()
    def the_supervisor_restarts(self):
        self.node.restart()
        self.node.reconcile()

    @rule(without=st.sampled_from(["", "A", "B"]), slot=st.sampled_from([2, 2, 2, 9, None]))
    def spec_changes(self, without, slot):
        self.node.assign(*(a_domain(uid) for uid in "AB" if uid != without), slot=slot)
        self.node.reconcile()

    @rule(refuses=st.booleans())
    def systemd_answers_or_not(self, refuses):
        self.node.daemon.refuses = refuses
        self.node.reconcile()

    @rule(is_full=st.booleans())
    def the_disk_is_full_or_not(self, is_full):
        self.node.files.full = {LAYOUT.directory} if is_full else set()
        self.node.reconcile()

    @invariant()
    def a_promise_is_never_broken_by_us(self):
        """No stop while an admitted claim holds the running domain."""
        if not hasattr(self, "node"):
            return
        news = self.node.daemon.history[self.did :]
        self.did = len(self.node.daemon.history)
        kept = [self.promised[uid] for uid in self.before & self.promised.keys()]
        if "stop" in news:
            assert self.served not in kept
        self.before = set(self.promised)
        run = self.node.supervisor.snapshot.run
        self.served = run.domain_uid if run is not None else ""

    @invariant()
    def all_promises_are_of_one_domain(self):
        if hasattr(self, "node"):
            assert len(set(self.promised.values())) <= 1

    @invariant()
    def what_runs_is_what_the_configuration_says(self):
        if not hasattr(self, "node") or not self.node.daemon.unit.is_running:
            return
        started = self.node.supervisor.snapshot.memory.started
        if started is not None and started.invocation_id == self.node.daemon.unit.invocation_id:
            config = self.node.files.read(LAYOUT.config)
            assert f"SERVER_PORT={started.run.port}\n".encode() in (config or b"")


SETTINGS = settings(
    max_examples=60, stateful_step_count=30, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip


@pytest.mark.timeout(300)
def test_safety_rules_hold_in_any_history():
    run_state_machine_as_test(Node, settings=SETTINGS)
