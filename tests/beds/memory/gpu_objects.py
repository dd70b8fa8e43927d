"""GPUs, inventories, configs and pools for tests of pure GPU code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from nvdra_node.gpu import catalog, registry, slices
from nvdra_node.gpu.effects.debts import DebtStore
from nvdra_node.gpu.inventory.rescan import Rescanner
from nvdra_node.gpu.kinds.base import DeviceKind, SliceSettings
from nvdra_node.gpu.model import Gpu, Inventory
from nvdra_node.gpu.taints import TaintStore
from nvdra_node.kubeletplugin.driver import Pool
from tests.fakes.clock import FakeClock
from tests.fakes.host.files import FakeFiles
from tests.fakes.host.host import fake_host

API = "resource.nvidia.com/v1beta1"


def a_gpu(minor: int = 0, **facts: Any) -> Gpu:
    """A healthy H100."""
    gpu = Gpu(
        minor=minor,
        uuid=f"GPU-{minor:08x}-0000-4000-8000-000000000000",
        pci_address=f"0000:{0x18 + minor:02x}:00.0",
        product_name="NVIDIA H100 80GB HBM3",
        brand="Nvidia",
        architecture="Hopper",
        cuda_compute_capability="9.0.0",
        driver_version="580.65.06",
        cuda_driver_version="13.0.0",
        memory_bytes=80 * 2**30,
        addressing_mode="HMM",
        numa_node=0,
        pcie_root="pci0000:15",
    )
    return replace(gpu, **facts)


def an_inventory(*gpus: Gpu) -> Inventory:
    """A scan that found these GPUs."""
    return Inventory(gpus=gpus, driver_version="580.65.06")


def shipped_kinds() -> dict[str, DeviceKind]:
    """The shipped kinds, on a host that pure methods do not touch."""
    host, clock = fake_host(), FakeClock()
    debts = DebtStore(Path("/owed"), FakeFiles())
    known = registry.build(host, Rescanner(host, clock), debts, Path("/hook"))
    return {kind.name: kind for kind in known.kinds}


def a_pool(
    inventory: Inventory,
    settings: SliceSettings | None = None,
    taints: TaintStore | None = None,
    kinds: Sequence[DeviceKind] = (),
) -> Pool:
    """What a node with this inventory publishes. ``kinds``: in place of the shipped ones."""
    known = {kind.name: kind for kind in kinds} or shipped_kinds()
    found = catalog.build(inventory, known.values())
    return slices.build(found, known, settings or SliceSettings(), taints or TaintStore())


def gpu_config(strategy: str = "TimeSlicing", **more: Any) -> dict[str, Any]:
    """A GpuConfig with sharing."""
    return {"apiVersion": API, "kind": "GpuConfig", "sharing": {"strategy": strategy, **more}}


def interval(text: str) -> dict[str, Any]:
    """A GpuConfig with that time slice."""
    return gpu_config(timeSlicingConfig={"interval": text})
