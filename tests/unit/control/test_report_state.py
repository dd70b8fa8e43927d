"""What the controller remembers of reports."""

from __future__ import annotations

import time

from nvdra_cluster.control.state.report_state import ASSIGNED_GRACE_S, ReportStates


def test_domain_counts_as_assigned_during_grace_period():
    report_states = ReportStates()
    report_states.note_unassigned("a", ["d"], 0.0)
    report_states.note_unassigned("b", ["d"], 1.0)
    report_states.note_unassigned("a", ["d"], ASSIGNED_GRACE_S - 1)
    report_states.note_unassigned("c", ["d"], ASSIGNED_GRACE_S + 2)
    assert report_states.was_assigned(("a", "d"), ASSIGNED_GRACE_S + 2)
    assert not report_states.was_assigned(("b", "d"), ASSIGNED_GRACE_S + 2)
    assert not report_states.was_assigned(("a", "d"), 2 * ASSIGNED_GRACE_S)


def test_end_of_many_domains_costs_each_node_same():
    """The cache is locked meanwhile, and 10,000 nodes may end some domains within ten minutes."""
    report_states = ReportStates()
    began_s = time.process_time()
    for number in range(40_000):
        report_states.note_unassigned(f"node-{number % 10_000}", [f"domain-{number}"], number / 100)
    assert time.process_time() - began_s < 3.0
    assert report_states.was_assigned(("node-9999", "domain-39999"), 400.0)
