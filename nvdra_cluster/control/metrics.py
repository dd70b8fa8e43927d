"""Metrics that are states: read from the cache at each scrape. Called by ``app``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from nvdra_cluster.control.state.cache import Cache
from nvdra_cluster.control.state.heartbeats import parse_time
from nvdra_core.api import ComputeDomainState
from nvdra_core.runtime.metrics import Registry


def add(
    registry: Registry,
    cache: Cache,
    is_leading: Callable[[], bool],
    ca_ends_s: Callable[[], float | None],
) -> None:
    """Add them. ``ca_ends_s``: when the CA of IMEX peers expires, in seconds since the epoch.

    ``nvidia_dra_compute_domain_info`` is upstream's; it counts right after a restart too, and on the leader
    only, so that a sum over replicas counts each domain once.
    """
    domains = registry.gauge(
        "nvidia_dra_compute_domain_info", "ComputeDomains by status", ("status",)
    )
    leader = registry.gauge("nvdra_controller_leader", "1 on the replica that leads")
    due = registry.gauge("nvdra_controller_due_decisions", "Decisions that wait to be taken")
    nodes = registry.gauge(
        "nvdra_controller_fabric_nodes", "FabricNodes by condition", ("condition",)
    )
    ends = registry.gauge(
        "nvdra_controller_certificate_expiry_timestamp_seconds",
        "When the CA of IMEX peers expires, and the first of the nodes' certificates, in seconds since the "
        "epoch; on the leader only",
        ("certificate",),
    )

    def refresh() -> None:
        """Read the cache; before each scrape."""
        with cache.lock:
            states = Counter(
                (domain.status.status or ComputeDomainState.NOT_READY).value
                for domain in cache.domains.values()
            )
            counts = {
                "all": len(cache.fabrics),
                "lost": len(cache.lost),
                "full": len(cache.full),
                "outsider": len(cache.outsiders),
                "refuted": len({name for name, _ in cache.report_states.refuted}),
            }
        told = [state.value for state in ComputeDomainState if state.value]
        is_counted = is_leading()
        domains.replace({(state,): states[state] if is_counted else 0 for state in told})
        nodes.replace({(name,): count for name, count in counts.items()})
        leader.set(float(is_leading()))
        due.set(cache.due())
        found = {"ca": ca_ends_s(), "node": _first_to_end_s(cache)} if is_counted else {}
        ends.replace({(name,): at_s for name, at_s in found.items() if at_s is not None})

    registry.before_render(refresh)


def _first_to_end_s(cache: Cache) -> float | None:
    """When the first certificate of a node expires; None where no node has one."""
    with cache.lock:
        given = [view.spec.certificate for view in cache.fabrics.values()]
    # RFC 3339 in UTC: the order of the texts is that of the times.
    return parse_time(min((one.not_after for one in given if one is not None), default=""))
