"""Inventory -> pool: what the node offers, as resource.k8s.io/v1 Device objects. Pure; the only builder, for all modes.

Called by ``driver`` whenever the inventory, the taints or the settings may have changed. The order is the minor number
(the scheduler takes the first device that fits, and a mere change of order would be a write to the API). No device
can make ``build`` fail: a fact that the API would refuse is left out and named by ``explain``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from nvdra_core import quantity
from nvdra_core.errors import MalformedTextError
from nvdra_node.gpu import semver
from nvdra_node.gpu.model import Gpu, GpuState, Inventory
from nvdra_node.kubeletplugin.driver import DeviceHealth, Health, Pool

MAX_STRING_BYTES = 64
"""The API's limit for string attributes."""
MAX_MESSAGE = 1024
"""The kubelet's limit for health messages."""

_PCI_BUS_ID = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")
_MIB = 2**20


class Taint(msgspec.Struct, frozen=True, kw_only=True):
    """A device taint (resource.k8s.io/v1 DeviceTaint); the API server adds the time."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"

    def to_json(self) -> dict[str, str]:
        """As the API wants it, without an empty value."""
        value = {"value": self.value} if self.value else {}
        return {"key": self.key, **value, "effect": self.effect}


class SliceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the feature gates and the configuration decide about slices."""

    taints: bool = False
    """NVMLDeviceHealthCheck: offer a sick GPU with a taint. False: do not offer it at all."""
    list_attributes: bool = False
    """DRAListTypeAttributes: ``numaNode`` is a list of one."""
    shares: str = "disabled"
    """ConsumableShares: ``disabled``, ``memory``, ``unlimited`` or a positive number."""
    module_ids: bool = False
    """FabricManagerPartitioning: publish ``gpuModuleID``."""


STATE_TAINTS: Mapping[GpuState, Taint] = {
    GpuState.LOST: Taint(key="gpu.nvidia.com/gpu-lost"),
    GpuState.HUNG: Taint(key="gpu.nvidia.com/gpu-hung"),
    GpuState.FAILED: Taint(key="gpu.nvidia.com/gpu-failed"),
}
"""Why a sick GPU takes no new claim. ``gpu-lost`` is upstream's key; upstream does not know the other two."""


def build(
    inventory: Inventory,
    settings: SliceSettings,
    taints: Mapping[str, Sequence[Taint]] | None = None,
) -> Pool:
    """The pool of this inventory. ``taints``: more of them by device name (XIDs), used when taints are on.

    Health is told for sick GPUs too when they are not offered: a pod may still hold them.
    """
    gpus = _offered(inventory)
    extra = taints or {}
    return Pool(
        devices=tuple(
            _device(gpu, settings, extra.get(gpu.name, ()))
            for gpu in gpus
            if settings.taints or gpu.state is GpuState.OK
        ),
        health=tuple(_health(gpu) for gpu in gpus),
    )


def explain(inventory: Inventory, settings: SliceSettings) -> tuple[str, ...]:
    """What ``build`` left out or cut, and why: one line each, for logs and doctor."""
    notes: list[str] = []
    for gpu in sorted(inventory.devices, key=lambda device: device.minor):
        if gpu.mig_enabled:
            notes.append(f"{gpu.name}: not offered as a full GPU, its MIG mode is on")
            continue
        if gpu.state is not GpuState.OK and not settings.taints:
            notes.append(f"{gpu.name}: not offered, {gpu.state.value}: {gpu.message}")
        if settings.shares != "disabled" and not _is_shared(gpu, settings):
            notes.append(f"{gpu.name}: offered to one claim at a time, its memory is not known")
        notes.extend(f"{gpu.name}: {note}" for note in _describe(gpu, settings).notes)
    return tuple(notes)


def attributes(gpu: Gpu, settings: SliceSettings) -> dict[str, dict[str, Any]]:
    """The published attributes of a full GPU (also what device metadata tells its containers)."""
    return _describe(gpu, settings).values


def _offered(inventory: Inventory) -> list[Gpu]:
    gpus = (gpu for gpu in inventory.devices if not gpu.mig_enabled)
    return sorted(gpus, key=lambda gpu: gpu.minor)


def _device(gpu: Gpu, settings: SliceSettings, more: Sequence[Taint]) -> dict[str, Any]:
    device: dict[str, Any] = {"name": gpu.name, "attributes": attributes(gpu, settings)}
    capacity: dict[str, Any] = {}
    if gpu.memory_bytes is not None:
        capacity["memory"] = {"value": quantity.format_bytes(gpu.memory_bytes)}
    if _is_shared(gpu, settings):
        device["allowMultipleAllocations"] = True
        capacity.update(_shared_capacity(gpu.memory_bytes, settings.shares))
    if capacity:
        device["capacity"] = capacity
    if settings.taints:
        of_state = STATE_TAINTS.get(gpu.state)
        by_key = {taint.key: taint for taint in (*more, *([of_state] if of_state else ()))}
        if by_key:
            device["taints"] = [by_key[key].to_json() for key in sorted(by_key)]
    return device


def _is_shared(gpu: Gpu, settings: SliceSettings) -> bool:
    """Whether several claims may have the GPU. Shares of its memory need to know how much there is: without, nothing
    would limit their number."""
    if settings.shares == "memory":
        return gpu.memory_bytes is not None
    return settings.shares != "disabled"


def _shared_capacity(memory_bytes: int | None, shares: str) -> dict[str, Any]:
    """Capacity that several claims draw from (upstream's consumable shares: accounting of the scheduler, no limit
    at run time). Memory that is not known is left out; a number of shares limits the claims without it."""
    capacity: dict[str, Any] = {}
    if memory_bytes is not None:
        most = quantity.format_bytes(memory_bytes // _MIB * _MIB)
        default, least = (most, "1Mi") if shares == "memory" else ("0", "0")
        span = {"min": least, "max": most, "step": "1Mi"}
        policy: dict[str, Any] = {"default": default, "validRange": span}
        capacity["memory"] = {"value": most, "requestPolicy": policy}
    if shares.isdecimal():
        span = {"min": "1", "max": shares}
        if int(shares) > 1:  # the API refuses a step beyond the capacity
            span["step"] = "1"
        policy = {"default": "1", "validRange": span}
        capacity["shares"] = {"value": shares, "requestPolicy": policy}
    return capacity


def _health(gpu: Gpu) -> DeviceHealth:
    if gpu.state is GpuState.OK:
        return DeviceHealth(device=gpu.name, health=Health.HEALTHY)
    message = f"{gpu.state.value}: {gpu.message}"[:MAX_MESSAGE]
    return DeviceHealth(device=gpu.name, health=Health.UNHEALTHY, message=message)


class _Attributes(msgspec.Struct, frozen=True):
    """Attributes being collected, and what could not be."""

    values: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    notes: list[str] = msgspec.field(default_factory=list)

    def string(self, key: str, text: str) -> None:
        """Add a string, cut to what the API takes."""
        raw = text.encode()
        if len(raw) > MAX_STRING_BYTES:
            text = raw[:MAX_STRING_BYTES].decode(errors="ignore")
            self.notes.append(f"{key} cut to {MAX_STRING_BYTES} bytes")
        self.values[key] = {"string": text}

    def version(self, key: str, text: str) -> None:
        """Add a version, made strict; left out when it cannot be."""
        try:
            self.values[key] = {"version": semver.normalize(text)}
        except MalformedTextError as error:
            self.notes.append(f"{key} left out: {error}")


def _describe(gpu: Gpu, settings: SliceSettings) -> _Attributes:
    found = _Attributes()
    found.string("type", "gpu")
    found.string("uuid", gpu.uuid)
    found.string("productName", gpu.product_name)
    found.string("brand", gpu.brand)
    found.string("architecture", gpu.architecture)
    found.version("cudaComputeCapability", gpu.cuda_compute_capability)
    found.version("driverVersion", gpu.driver_version)
    found.version("cudaDriverVersion", gpu.cuda_driver_version)
    if _PCI_BUS_ID.fullmatch(gpu.pci_address):
        found.string("resource.kubernetes.io/pciBusID", gpu.pci_address)
    else:
        found.notes.append(f"pciBusID left out: {gpu.pci_address} is not dddd:bb:dd.f")
    if gpu.pcie_root is not None:
        found.string("resource.kubernetes.io/pcieRoot", gpu.pcie_root)
    if gpu.numa_node is not None:
        one = {"ints": [gpu.numa_node]} if settings.list_attributes else {"int": gpu.numa_node}
        found.values["resource.kubernetes.io/numaNode"] = one
    if gpu.addressing_mode is not None:
        found.string("addressingMode", gpu.addressing_mode)
    if settings.module_ids and gpu.module_id:
        found.values["gpuModuleID"] = {"int": gpu.module_id}
    return found
