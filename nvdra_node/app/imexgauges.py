"""Metrics of the IMEX supervisor that are states: read at each scrape, all from one snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nvdra_core.api.fabric import ImexState
from nvdra_node.imex.supervisor import Supervisor


class ImexCollector(Collector):
    """``writes``: how often the status of this node's FabricNode was written since start."""

    def __init__(self, supervisor: Supervisor, writes: Callable[[], int]) -> None:
        self._supervisor = supervisor
        self._writes = writes

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        snapshot = self._supervisor.snapshot
        now = snapshot.situation.imex if snapshot.run is not None else ImexState.STOPPED
        state = GaugeMetricFamily(
            "nvdra_imex_state", "1 for the state that nvidia-imex is in", labels=("state",)
        )
        for each in ImexState:
            if each.value:
                state.add_metric((each.value.lower(),), float(each is now))
        yield state
        yield GaugeMetricFamily(
            "nvdra_imex_unplanned_ends",
            "Unplanned ends of nvidia-imex in this boot",
            snapshot.memory.restarts,
        )
        holders = snapshot.situation.holders
        admitted = sum(holder.is_admitted for holder in holders)
        claims = GaugeMetricFamily(
            "nvdra_imex_claims", "Claims that hold a ComputeDomain here", labels=("ready",)
        )
        claims.add_metric(("true",), admitted)
        claims.add_metric(("false",), len(holders) - admitted)
        yield claims
        yield GaugeMetricFamily(
            "nvdra_imex_peers_connected",
            "Peers that nvidia-imex is connected to",
            len(snapshot.view.connected) if snapshot.view is not None else 0,
        )
        yield GaugeMetricFamily(
            "nvdra_fabric_node_writes",
            "Writes of this node's FabricNode status",
            self._writes(),
        )
