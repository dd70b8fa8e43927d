"""Metrics that are states: read from the cache at each scrape. Called by ``app``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from nvdra_cluster.control.cache import Cache
from nvdra_core.api import ComputeDomainState
from nvdra_core.metrics import Registry


def add(registry: Registry, cache: Cache, is_leading: Callable[[], bool]) -> None:
    """Add them. ``nvidia_dra_compute_domain_info`` is upstream's; it counts right after a restart too, and
    on the leader only, so that a sum over replicas counts each domain once.
    """
    domains = registry.gauge(
        "nvidia_dra_compute_domain_info", "ComputeDomains by status", ("status",)
    )
    leader = registry.gauge("nvdra_controller_leader", "1 on the replica that leads")
    due = registry.gauge("nvdra_controller_due_decisions", "Decisions that wait to be taken")
    nodes = registry.gauge(
        "nvdra_controller_fabric_nodes", "FabricNodes by condition", ("condition",)
    )

    def refresh() -> None:
        """Read the cache; before each scrape."""
        with cache.lock:
            states = Counter(
                (domain.status.status or ComputeDomainState.NOT_READY).value
                for domain in cache.domains.values()
            )
            counts = {"all": len(cache.fabrics), "lost": len(cache.lost), "full": len(cache.full)}
        told = [state.value for state in ComputeDomainState if state.value]
        is_counted = is_leading()
        domains.replace({(state,): states[state] if is_counted else 0 for state in told})
        nodes.replace({(name,): count for name, count in counts.items()})
        leader.set(float(is_leading()))
        due.set(cache.due())

    registry.before_render(refresh)
