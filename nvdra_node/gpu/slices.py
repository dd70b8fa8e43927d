"""Devices of all kinds -> what this node publishes: one builder for all modes. Pure. Called by ``driver``.

The order of devices is stable: the scheduler takes the first one that fits, and a change of order would be a write to
the API.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nvdra_node.gpu.catalog import Catalog
from nvdra_node.gpu.kinds.base import Description, Device, DeviceKind, SliceSettings
from nvdra_node.gpu.model import Gpu, GpuState
from nvdra_node.gpu.taints import Taint, TaintStore
from nvdra_node.kubeletplugin.driver import DeviceHealth, Health, Pool

MAX_MESSAGE = 1024
"""The kubelet's limit for health messages."""

STATE_TAINTS: Mapping[GpuState, str] = {
    GpuState.LOST: "gpu.nvidia.com/gpu-lost",
    GpuState.HUNG: "gpu.nvidia.com/gpu-hung",
    GpuState.FAILED: "gpu.nvidia.com/gpu-failed",
}
"""Taint keys of unhealthy GPUs. ``gpu-lost`` is upstream's; upstream has no other."""


def build(
    catalog: Catalog,
    kinds: Mapping[str, DeviceKind],
    settings: SliceSettings,
    taints: TaintStore,
) -> Pool:
    """The pool of a catalog. Health is reported for withheld unhealthy devices too: a pod may hold them."""
    devices: list[Mapping[str, Any]] = []
    health: list[DeviceHealth] = []
    counted: dict[str, Gpu] = {}
    for device in catalog.devices:
        if device.withheld:
            continue
        found = _taints(device, taints)
        blocking = [taint for taint in found if taint.effect != "None"]
        health.append(_health(device, blocking))
        if blocking and not settings.taints:
            continue
        description = kinds[device.kind].describe(device, settings)
        devices.append(_to_json(device, description, found if settings.taints else ()))
        if description.counters:
            counted[device.gpu.name] = device.gpu
    return Pool(
        devices=tuple(devices),
        shared_counters=tuple(_counter_set(gpu) for gpu in counted.values()),
        health=tuple(health),
    )


def _taints(device: Device, taints: TaintStore) -> tuple[Taint, ...]:
    """All taints of a device, one per key: that of the GPU's state first."""
    by_key = {taint.key: taint for taint in taints.of(device.holds)}
    if (key := STATE_TAINTS.get(device.gpu.state)) is not None:
        message = f"{device.gpu.state.value}: {device.gpu.message}"
        by_key[key] = Taint(key=key, message=message)
    return tuple(by_key[key] for key in sorted(by_key))


def _to_json(device: Device, description: Description, taints: Iterable[Taint]) -> dict[str, Any]:
    body: dict[str, Any] = {"name": device.name, "attributes": description.attributes}
    if description.is_shared:
        body["allowMultipleAllocations"] = True
    if description.capacity:
        body["capacity"] = description.capacity
    if found := [taint.to_json() for taint in taints]:
        body["taints"] = found
    if description.counters:
        counters = _counters(description.counters)
        body["consumesCounters"] = [{"counterSet": _set_name(device.gpu), "counters": counters}]
    return body


def _counter_set(gpu: Gpu) -> dict[str, Any]:
    return {"name": _set_name(gpu), "counters": _counters(gpu.counters)}


def _counters(counters: Mapping[str, int]) -> dict[str, Any]:
    return {name: {"value": str(value)} for name, value in counters.items()}


def _set_name(gpu: Gpu) -> str:
    """Upstream's."""
    return f"{gpu.name}-counter-set"


def _health(device: Device, taints: list[Taint]) -> DeviceHealth:
    if not taints:
        return DeviceHealth(device=device.name, health=Health.HEALTHY)
    message = "; ".join(taint.message or taint.key for taint in taints)[:MAX_MESSAGE]
    return DeviceHealth(device=device.name, health=Health.UNHEALTHY, message=message)
