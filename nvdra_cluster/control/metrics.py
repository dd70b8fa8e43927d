"""Gauges of the controller, read from the cache at each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nvdra_cluster.control.state.cache import Cache
from nvdra_cluster.control.state.heartbeats import parse_time
from nvdra_core.api import ComputeDomainState


class ControllerCollector(Collector):
    """``ca_ends_s``: expiry of the CA of IMEX peers, in seconds since the epoch.

    ``nvidia_dra_compute_domain_info`` is upstream's. It counts on the leader only, so that a sum over replicas
    counts each domain once.
    """

    def __init__(
        self,
        cache: Cache,
        is_leading: Callable[[], bool],
        ca_ends_s: Callable[[], float | None],
    ) -> None:
        self._cache = cache
        self._is_leading = is_leading
        self._ca_ends_s = ca_ends_s

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        is_leading = self._is_leading()
        yield self._domains(is_leading)
        yield GaugeMetricFamily(
            "nvdra_controller_leader", "1 on the replica that leads", float(is_leading)
        )
        yield GaugeMetricFamily(
            "nvdra_controller_due_decisions", "Keys in the work queue", len(self._cache.queue)
        )
        yield self._fabric_nodes()
        yield self._expiries(is_leading)

    def _domains(self, is_leading: bool) -> Metric:
        with self._cache.lock:
            states = Counter(
                (domain.status.status or ComputeDomainState.NOT_READY).value
                for domain in self._cache.domains.values()
            )
        family = GaugeMetricFamily(
            "nvidia_dra_compute_domain_info", "ComputeDomains by status", labels=("status",)
        )
        for state in ComputeDomainState:
            if state.value:
                family.add_metric((state.value,), states[state.value] if is_leading else 0)
        return family

    def _fabric_nodes(self) -> Metric:
        cache = self._cache
        with cache.lock:
            counts = {
                "all": len(cache.fabrics),
                "lost": len(cache.lost),
                "full": len(cache.full),
                "outsider": len(cache.outsiders),
                "refuted": len({name for name, _ in cache.report_states.refuted}),
            }
        family = GaugeMetricFamily(
            "nvdra_controller_fabric_nodes", "FabricNodes by condition", labels=("condition",)
        )
        for condition, count in counts.items():
            family.add_metric((condition,), count)
        return family

    def _expiries(self, is_leading: bool) -> Metric:
        family = GaugeMetricFamily(
            "nvdra_controller_certificate_expiry_timestamp_seconds",
            "When the CA of IMEX peers expires, and the first of the nodes' certificates, in seconds since the "
            "epoch; on the leader only",
            labels=("certificate",),
        )
        found = {"ca": self._ca_ends_s(), "node": _first_expiry_s(self._cache)}
        for certificate, expiry_s in found.items():
            if is_leading and expiry_s is not None:
                family.add_metric((certificate,), expiry_s)
        return family


def _first_expiry_s(cache: Cache) -> float | None:
    """Expiry of the first node certificate; None without any."""
    with cache.lock:
        given = [view.spec.certificate for view in cache.fabrics.values()]
    # RFC 3339 in UTC: the order of the texts is that of the times.
    return parse_time(min((one.not_after for one in given if one is not None), default=""))
