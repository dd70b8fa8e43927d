"""Metrics that are states and not events: read from their owners at each scrape. Called by ``plugin``."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Protocol

import msgspec

from nvdra_core.runtime.metrics import Counter, Registry
from nvdra_core.runtime.pluginmetrics import PluginMetrics
from nvdra_node.checkpoint.model import RecordState
from nvdra_node.checkpoint.store import RecordStore
from nvdra_node.kubeletplugin.driver import Health
from nvdra_node.kubeletplugin.readiness import Readiness
from nvdra_node.kubeletplugin.slices.publisher import PoolSource, PublishStatus


class Published(Protocol):
    """The part of ``kubeletplugin.publisher.Publisher`` that is needed."""

    def published(self) -> PublishStatus:
        """See Publisher."""


class Owners(msgspec.Struct, frozen=True, kw_only=True):
    """Who knows the states."""

    driver: PoolSource
    records: RecordStore
    publisher: Published
    boot_id: str
    hangs: Callable[[], int]
    """Calls to the hardware that were given up since start."""
    readiness: Readiness


def add(registry: Registry, metrics: PluginMetrics, owners: Owners) -> None:
    """Add prepared devices (upstream's metric), devices by health, what is published, whether claims can be prepared,
    damaged records, hangs."""
    name = owners.driver.name
    by_health = registry.gauge(
        "nvidia_dra_devices", "Devices of this node by health", ("driver", "health")
    )
    published = registry.gauge(
        "nvidia_dra_published_devices", "Devices in the ResourceSlices of this node", ("driver",)
    )
    ready = registry.gauge(
        "nvidia_dra_prepare_ready", "Whether this node can prepare claims: 1 or 0", ("driver",)
    )

    def refresh() -> None:
        metrics.set_prepared(_kinds(owners))
        healths = collections.Counter(entry.health for entry in owners.driver.pool().health)
        for health in Health:
            by_health.set(healths[health], name, health.value.lower())
        published.set(owners.publisher.published().devices, name)
        ready.set(0 if owners.readiness.causes else 1, name)
        metrics.quarantined.set(len(owners.records.quarantined), name)
        _catch_up(metrics.journal_writes, name, owners.records.writes)
        _catch_up(metrics.nvml_hung, name, owners.hangs())

    registry.before_render(refresh)


def _kinds(owners: Owners) -> dict[str, int]:
    """Prepared devices by their kind. What a record of an earlier boot says was prepared is so no longer."""
    return collections.Counter(
        device.kind
        for record in owners.records.all()
        if record.state is RecordState.COMPLETED and record.boot_id == owners.boot_id
        for device in record.devices
    )


def _catch_up(counter: Counter, driver: str, total: int) -> None:
    """Bring a counter to what its owner counted."""
    counter.inc(driver, by=total - counter.value(driver))
