"""Metrics of the IMEX supervisor, from a supervisor on a daemon in memory."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from nvdra_node.app.imexgauges import ImexCollector
from nvdra_node.imex.daemon.ctl import ImexDomainStatus
from tests.beds.memory.imex_node import ImexNode, a_domain


class Scraped:
    """A node and its metrics."""

    def __init__(self) -> None:
        self.node = ImexNode()
        self.node.assign(a_domain("A"), a_domain("B"))
        self.writes = 0
        self._registry = CollectorRegistry()
        self._registry.register(ImexCollector(self.node.supervisor, lambda: self.writes))

    def read(self) -> dict[str, float]:
        """Samples of now, those that are 0 left out."""
        lines = generate_latest(self._registry).decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples if float(value)}


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


def test_idle_node_reports_a_stopped_daemon(scraped):
    scraped.node.reconcile()
    assert scraped.read() == {'nvdra_imex_state{state="stopped"}': 1.0}


def test_running_daemon_claims_and_peers_are_counted(scraped):
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


def test_unplanned_end_is_counted_and_a_stop_is_not(scraped):
    scraped.node.join("c1", "A")
    scraped.node.daemon.die()
    scraped.node.reconcile()
    found = scraped.read()
    assert found["nvdra_imex_unplanned_ends"] == 1.0
    assert found['nvdra_imex_state{state="stopped"}'] == 1.0
    scraped.node.clock.advance(2)
    scraped.node.reconcile()
    scraped.node.claims.leave("c1")
    scraped.node.join("c2", "B")
    found = scraped.read()
    assert found["nvdra_imex_unplanned_ends"] == 1.0
    assert found['nvdra_imex_state{state="ready"}'] == 1.0
