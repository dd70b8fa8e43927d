"""Metrics of a kubelet plugin that are states: read from their owners at each scrape."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nvdra_node.checkpoint.model import RecordState
from nvdra_node.checkpoint.store import RecordStore
from nvdra_node.kubeletplugin.driver import Health, PoolSource
from nvdra_node.kubeletplugin.readiness import Readiness
from nvdra_node.kubeletplugin.slices.publisher import PublishStatus

UNKNOWN_TYPE = "unknown"


class Published(Protocol):
    """The part of ``slices.publisher.Publisher`` that is needed."""

    def published(self) -> PublishStatus:
        """See Publisher."""


class PluginState(msgspec.Struct, frozen=True, kw_only=True):
    """The owners of the states."""

    driver: PoolSource
    records: RecordStore
    publisher: Published
    readiness: Readiness
    hangs: Callable[[], int]
    """NVML calls given up on after their deadline, since start."""
    node: str
    boot_id: str
    device_types: tuple[str, ...]
    """Values of ``device_type`` that this driver can have."""


class PluginCollector(Collector):
    """Reads the owners when a scrape asks; keeps nothing."""

    def __init__(self, state: PluginState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        state = self._state
        yield self._prepared()
        yield self._by_health()
        yield self._gauge(
            "nvidia_dra_published_devices",
            "Devices in the ResourceSlices of this node",
            state.publisher.published().devices,
        )
        yield self._gauge(
            "nvidia_dra_prepare_ready",
            "Whether this node can prepare claims: 1 or 0",
            0 if state.readiness.causes else 1,
        )
        yield self._gauge(
            "nvidia_dra_records_quarantined",
            "Claim records set aside because unreadable",
            len(state.records.quarantined),
        )
        yield self._counter(
            "nvidia_dra_journal_writes_total",
            "Claim records written and flushed",
            state.records.writes,
        )
        yield self._counter(
            "nvidia_dra_nvml_hung_total",
            "NVML calls given up on after their deadline",
            state.hangs(),
        )

    def _prepared(self) -> Metric:
        """Upstream's metric. Devices of an earlier boot are not prepared any more, whatever their record says."""
        state = self._state
        found = collections.Counter(
            device.kind
            for record in state.records.all()
            if record.state is RecordState.COMPLETED and record.boot_id == state.boot_id
            for device in record.devices
        )
        family = GaugeMetricFamily(
            "nvidia_dra_prepared_devices",
            "Devices of claims that are prepared",
            labels=("node", "driver", "device_type"),
        )
        for kind in dict.fromkeys((*state.device_types, UNKNOWN_TYPE, *found)):
            family.add_metric((state.node, state.driver.name, kind), found[kind])
        return family

    def _by_health(self) -> Metric:
        healths = collections.Counter(entry.health for entry in self._state.driver.pool().health)
        family = GaugeMetricFamily(
            "nvidia_dra_devices", "Devices of this node by health", labels=("driver", "health")
        )
        for health in Health:
            family.add_metric((self._state.driver.name, health.value.lower()), healths[health])
        return family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=("driver",))
        family.add_metric((self._state.driver.name,), value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=("driver",))
        family.add_metric((self._state.driver.name,), value)
        return family
