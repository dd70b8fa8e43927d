"""Metrics of the IMEX supervisor: states, read at each scrape. Called by ``imex``."""

from __future__ import annotations

from collections.abc import Callable

from nvdra_core.api.fabric import ImexState
from nvdra_core.runtime.metrics import Registry
from nvdra_node.imex.supervisor import Supervisor


def add(registry: Registry, supervisor: Supervisor, writes: Callable[[], int]) -> None:
    """Add the daemon's state, its unplanned ends, claims and peers, and writes of the status."""
    state = registry.gauge("nvdra_imex_state", "1 for the state that nvidia-imex is in", ("state",))
    restarts = registry.gauge(
        "nvdra_imex_unplanned_ends", "Ends of nvidia-imex that nobody asked for, in this boot"
    )
    claims = registry.gauge(
        "nvdra_imex_claims", "Claims that hold a ComputeDomain here", ("ready",)
    )
    peers = registry.gauge("nvdra_imex_peers_connected", "Peers that nvidia-imex is connected to")
    written = registry.gauge("nvdra_fabric_node_writes", "Writes of this node's FabricNode status")

    def refresh() -> None:
        """Read the supervisor once, so that all gauges tell of the same moment."""
        snapshot = supervisor.snapshot
        now = snapshot.situation.imex if snapshot.run is not None else ImexState.STOPPED
        for each in ImexState:
            if each.value:
                state.set(float(each is now), each.value.lower())
        restarts.set(snapshot.memory.restarts)
        holders = snapshot.situation.holders
        admitted = sum(holder.is_admitted for holder in holders)
        claims.set(admitted, "true")
        claims.set(len(holders) - admitted, "false")
        peers.set(len(snapshot.view.connected) if snapshot.view is not None else 0)
        written.set(writes())

    registry.before_render(refresh)
