"""What the IMEX supervisor tells at a scrape, from a supervisor on a daemon in memory."""

from __future__ import annotations

import pytest

from nvdra_core.runtime.metrics import Registry
from nvdra_node.app import imexgauges
from nvdra_node.imex.daemon.ctl import ImexDomainStatus
from tests.scenario.imex.node import ImexNode, a_domain


class Scraped:
    """A node and its metrics."""

    def __init__(self) -> None:
        self.node = ImexNode()
        self.node.assign(a_domain("A"), a_domain("B"))
        self.writes = 0
        self._registry = Registry()
        imexgauges.add(self._registry, self.node.supervisor, lambda: self.writes)

    def read(self) -> dict[str, float]:
        """Samples of now, those that are 0 left out."""
        lines = self._registry.render().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples if float(value)}


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


def test_a_node_at_rest_says_that_nothing_runs(scraped):
    scraped.node.reconcile()
    assert scraped.read() == {'nvdra_imex_state{state="stopped"}': 1.0}


def test_a_running_daemon_its_claims_and_its_peers_are_counted(scraped):
    scraped.node.join("c1", "A")
    scraped.node.join("c2", "B")
    scraped.node.supervisor.set_view(ImexDomainStatus(own=2, connected=frozenset({5})))
    scraped.node.reconcile()
    scraped.writes = 4
    assert scraped.read() == {
        'nvdra_imex_state{state="ready"}': 1.0,
        'nvdra_imex_claims{ready="true"}': 1.0,
        'nvdra_imex_claims{ready="false"}': 1.0,
        "nvdra_imex_peers_connected": 1.0,
        "nvdra_fabric_node_writes": 4.0,
    }


def test_an_end_that_nobody_asked_for_is_counted_and_a_stop_is_not(scraped):
    scraped.node.join("c1", "A")
    scraped.node.daemon.die()
    scraped.node.reconcile()
    found = scraped.read()
    assert found["nvdra_imex_unplanned_ends"] == 1.0
    assert found['nvdra_imex_state{state="stopped"}'] == 1.0
    scraped.node.clock.advance(2)
    scraped.node.reconcile()
    scraped.node.supervisor.leave("c1")
    scraped.node.join("c2", "B")
    found = scraped.read()
    assert found["nvdra_imex_unplanned_ends"] == 1.0
    assert found['nvdra_imex_state{state="ready"}'] == 1.0
