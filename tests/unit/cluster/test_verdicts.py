"""What the controller remembers of reports."""

from __future__ import annotations

import time

from nvdra_cluster.control.verdicts import TOLD_S, Verdicts


def test_domain_counts_as_told_for_a_while_after_its_last_end():
    verdicts = Verdicts()
    verdicts.untell("a", ["d"], 0.0)
    verdicts.untell("b", ["d"], 1.0)
    verdicts.untell("a", ["d"], TOLD_S - 1)
    verdicts.untell("c", ["d"], TOLD_S + 2)
    assert verdicts.was_told(("a", "d"), TOLD_S + 2)
    assert not verdicts.was_told(("b", "d"), TOLD_S + 2)
    assert not verdicts.was_told(("a", "d"), 2 * TOLD_S)


def test_end_of_many_domains_costs_each_node_the_same():
    """The cache is locked meanwhile, and 10,000 nodes may end some domains within ten minutes."""
    verdicts = Verdicts()
    began_s = time.process_time()
    for number in range(40_000):
        verdicts.untell(f"node-{number % 10_000}", [f"domain-{number}"], number / 100)
    assert time.process_time() - began_s < 3.0
    assert verdicts.was_told(("node-9999", "domain-39999"), 400.0)
