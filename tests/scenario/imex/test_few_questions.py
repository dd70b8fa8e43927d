"""How often systemd and nvidia-imex-ctl are asked: what is known already is not asked again."""

from __future__ import annotations

from collections import Counter

from nvdra_core.api.fabric import ImexState
from nvdra_node.imex.daemon.control import STOPPED_TTL_S
from nvdra_node.imex.schedule import FIRST_POLL_S, STARTING_POLL_S, STEADY_POLL_S
from tests.beds.memory.imex_node import a_claim, a_domain


def asked(node):
    found = Counter(node.daemon.asked)
    node.daemon.asked.clear()
    return found


def test_news_asks_nobody_while_no_daemon_runs_and_none_is_needed(node):
    node.reconcile()
    asked(node)
    for number in range(5):
        node.join(f"c{number}", "unknown")
        node.assign(slot=number)
        node.reconcile()
    assert asked(node) == {}
    node.clock.advance(STOPPED_TTL_S)
    node.reconcile(1)
    assert asked(node) == {"show": 1}


def test_a_formation_looks_before_the_start_and_after_it(node):
    node.reconcile()
    asked(node)
    node.assign(a_domain())
    assert node.join("c1").readiness.is_ready
    # The fake has no process to hold; with one, the second look after the start is none (test_life).
    assert asked(node) == {"show": 3, "state": 1}


def test_what_the_controller_says_of_others_asks_the_daemon_nothing(node):
    node.assign(a_domain())
    node.join("c1")
    asked(node)
    for members in ((2,), (2, 5), (2, 5, 7)):
        node.assign(a_domain(members=members))
        node.reconcile(1)
    assert asked(node)["state"] == 0


def test_who_asks_whether_a_domain_is_ready_is_answered_by_the_daemon(node):
    node.assign(a_domain())
    node.join("c1")
    asked(node)
    node.daemon.state_now = ImexState.UNAVAILABLE
    assert not node.ask(a_claim("c2")).readiness.is_ready
    assert asked(node)["state"] >= 1


def test_a_daemon_that_runs_is_asked_now_and_then(node):
    node.assign(a_domain())
    node.join("c1")
    node.daemon.state_now = ImexState.UNAVAILABLE
    node.clock.advance(STEADY_POLL_S)
    node.reconcile(1)
    assert node.supervisor.snapshot.situation.imex is ImexState.UNAVAILABLE


def test_a_word_that_is_known_wakes_nobody(node):
    node.assign(a_domain())
    node.reconcile()
    node.supervisor._wake.clear()
    node.assign(a_domain())
    assert not node.supervisor._wake.is_set()


def test_a_claim_waits_little_longer_than_its_daemon_starts(node):
    node.assign(a_domain())
    node.join("c1")
    node.daemon.starts_as = ImexState.INITIALIZING
    node.daemon.restart_by_hand()
    began_s, pauses_s = node.clock.monotonic(), []
    while node.clock.monotonic() < began_s + 60:
        pauses_s.append(node.supervisor.reconcile_once())
        node.clock.advance(pauses_s[-1])
        waited_s = node.clock.monotonic() - began_s
        assert pauses_s[-1] <= max(FIRST_POLL_S * 2, min(0.4 * waited_s, STARTING_POLL_S))
    assert pauses_s[-1] == STARTING_POLL_S
