"""How often systemd and nvidia-imex-ctl are queried."""

from __future__ import annotations

from collections import Counter

from nvdra_core.api.fabric import ImexState
from nvdra_node.imex.daemon.control import STOPPED_TTL_S
from nvdra_node.imex.schedule import FIRST_POLL_S, STARTING_POLL_S, STEADY_POLL_S
from tests.beds.memory.imex_node import a_claim, a_domain


def queries(node):
    found = Counter(node.daemon.queries)
    node.daemon.queries.clear()
    return found


def test_changes_query_nothing_while_no_daemon_is_needed(node):
    node.reconcile()
    queries(node)
    for number in range(5):
        node.join(f"c{number}", "unknown")
        node.assign(slot=number)
        node.reconcile()
    assert queries(node) == {}
    node.clock.advance(STOPPED_TTL_S)
    node.reconcile(1)
    assert queries(node) == {"show": 1}


def test_formation_queries_systemd_before_and_after_start(node):
    node.reconcile()
    queries(node)
    node.serve()
    # The fake has no process; with one, the status after the start is reused (test_process_monitor).
    assert queries(node) == {"show": 3, "state": 1}


def test_change_of_members_queries_no_state(node):
    node.serve()
    queries(node)
    for members in ((2,), (2, 5), (2, 5, 7)):
        node.assign(a_domain(members=members))
        node.reconcile(1)
    assert queries(node)["state"] == 0


def test_join_queries_the_daemons_state(node):
    node.serve()
    queries(node)
    node.daemon.state_now = ImexState.UNAVAILABLE
    assert not node.ask(a_claim("c2")).readiness.is_ready
    assert queries(node)["state"] >= 1


def test_running_daemon_is_queried_periodically(node):
    node.serve()
    node.daemon.state_now = ImexState.UNAVAILABLE
    node.clock.advance(STEADY_POLL_S)
    node.reconcile(1)
    assert node.supervisor.snapshot.situation.imex is ImexState.UNAVAILABLE


def test_unchanged_spec_triggers_no_pass(node):
    node.assign(a_domain())
    node.reconcile()
    node.supervisor._wake.clear()
    node.assign(a_domain())
    assert not node.supervisor._wake.is_set()


def test_poll_intervals_grow_while_the_daemon_starts(node):
    node.serve()
    node.daemon.starts_as = ImexState.INITIALIZING
    node.daemon.restart_by_hand()
    began_s, pauses_s = node.clock.monotonic(), []
    while node.clock.monotonic() < began_s + 60:
        pauses_s.append(node.supervisor.reconcile_once())
        node.clock.advance(pauses_s[-1])
        waited_s = node.clock.monotonic() - began_s
        assert pauses_s[-1] <= max(FIRST_POLL_S * 2, min(0.4 * waited_s, STARTING_POLL_S))
    assert pauses_s[-1] == STARTING_POLL_S
