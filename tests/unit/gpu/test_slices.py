"""Pool building: what is offered, how, and what a bad fact does (never more than its own attribute)."""

from typing import Any

import pytest
from msgspec.structs import replace

from nvdra_node.gpu import slices
from nvdra_node.gpu.model import Gpu, GpuState, Inventory
from nvdra_node.gpu.slices import SliceSettings, Taint
from nvdra_node.kubeletplugin.driver import Health

PLAIN = SliceSettings()
TAINTS = SliceSettings(taints=True)


def a_gpu(minor: int = 0, **facts: Any) -> Gpu:
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
    return Inventory(devices=gpus, driver_version="580.65.06")


def one_device(gpu: Gpu, settings: SliceSettings = PLAIN) -> dict[str, Any]:
    (device,) = slices.build(an_inventory(gpu), settings).devices
    return dict(device)


def test_full_gpu_has_upstream_attributes_and_capacity() -> None:
    assert one_device(a_gpu()) == {
        "name": "gpu-0",
        "attributes": {
            "type": {"string": "gpu"},
            "uuid": {"string": "GPU-00000000-0000-4000-8000-000000000000"},
            "productName": {"string": "NVIDIA H100 80GB HBM3"},
            "brand": {"string": "Nvidia"},
            "architecture": {"string": "Hopper"},
            "cudaComputeCapability": {"version": "9.0.0"},
            "driverVersion": {"version": "580.65.6"},
            "cudaDriverVersion": {"version": "13.0.0"},
            "resource.kubernetes.io/pciBusID": {"string": "0000:18:00.0"},
            "resource.kubernetes.io/pcieRoot": {"string": "pci0000:15"},
            "resource.kubernetes.io/numaNode": {"int": 0},
            "addressingMode": {"string": "HMM"},
        },
        "capacity": {"memory": {"value": "80Gi"}},
    }


def test_unknown_facts_are_omitted() -> None:
    device = one_device(
        a_gpu(memory_bytes=None, addressing_mode=None, numa_node=None, pcie_root=None)
    )
    assert "capacity" not in device
    missing = {
        "resource.kubernetes.io/pcieRoot",
        "resource.kubernetes.io/numaNode",
        "addressingMode",
    }
    assert not missing & set(device["attributes"])


def test_devices_are_ordered_by_minor() -> None:
    gpus = [a_gpu(n) for n in (10, 2, 0)]
    assert [d["name"] for d in slices.build(an_inventory(*gpus), PLAIN).devices] == [
        "gpu-0",
        "gpu-2",
        "gpu-10",
    ]


def test_empty_inventory_gives_an_empty_pool() -> None:
    pool = slices.build(Inventory(devices=(), driver_version=None), PLAIN)
    assert pool.devices == () and pool.health == ()


def test_gpu_in_mig_mode_is_not_published_whole() -> None:
    inventory = an_inventory(a_gpu(mig_enabled=True), a_gpu(1))
    assert [d["name"] for d in slices.build(inventory, PLAIN).devices] == ["gpu-1"]
    assert any("MIG" in note for note in slices.explain(inventory, PLAIN))


def test_numa_node_is_list_with_gate() -> None:
    device = one_device(a_gpu(numa_node=1), SliceSettings(list_attributes=True))
    assert device["attributes"]["resource.kubernetes.io/numaNode"] == {"ints": [1]}


@pytest.mark.parametrize(("module_id", "told"), [(3, {"int": 3}), (0, None), (None, None)])
def test_module_id_is_published_with_gate(module_id: Any, told: Any) -> None:
    gpu = a_gpu(module_id=module_id)
    device = one_device(gpu, SliceSettings(module_ids=True))
    assert device["attributes"].get("gpuModuleID") == told
    assert "gpuModuleID" not in one_device(gpu)["attributes"]


@pytest.mark.parametrize(
    ("facts", "attribute"),
    [
        ({"driver_version": "unknown"}, "driverVersion"),
        ({"cuda_compute_capability": ""}, "cudaComputeCapability"),
        ({"pci_address": "10000:01:00.0"}, "resource.kubernetes.io/pciBusID"),
    ],
)
def test_invalid_fact_drops_only_its_attribute(facts: dict[str, Any], attribute: str) -> None:
    inventory = an_inventory(a_gpu(**facts))
    (device,) = slices.build(inventory, PLAIN).devices
    assert attribute not in device["attributes"]
    assert len(slices.explain(inventory, PLAIN)) == 1


def test_long_strings_are_cut_at_a_character() -> None:
    inventory = an_inventory(a_gpu(product_name="x" * 63 + "é"))
    (device,) = slices.build(inventory, PLAIN).devices
    assert device["attributes"]["productName"] == {"string": "x" * 63}
    assert slices.explain(inventory, PLAIN) == ("gpu-0: productName cut to 64 bytes",)


@pytest.mark.parametrize("state", [GpuState.LOST, GpuState.HUNG, GpuState.FAILED])
def test_unhealthy_gpu_is_withheld_without_taints(state: GpuState) -> None:
    pool = slices.build(an_inventory(a_gpu(state=state, message="why"), a_gpu(1)), PLAIN)
    assert [d["name"] for d in pool.devices] == ["gpu-1"]
    assert [(h.device, h.health) for h in pool.health] == [
        ("gpu-0", Health.UNHEALTHY),
        ("gpu-1", Health.HEALTHY),
    ]
    assert "why" in pool.health[0].message


@pytest.mark.parametrize(
    ("state", "key"),
    [
        (GpuState.LOST, "gpu.nvidia.com/gpu-lost"),
        (GpuState.HUNG, "gpu.nvidia.com/gpu-hung"),
        (GpuState.FAILED, "gpu.nvidia.com/gpu-failed"),
    ],
)
def test_unhealthy_gpu_is_published_tainted(state: GpuState, key: str) -> None:
    device = one_device(a_gpu(state=state), TAINTS)
    assert device["taints"] == [{"key": key, "effect": "NoSchedule"}]
    assert "taints" not in one_device(a_gpu(), TAINTS)


def test_taints_are_merged_by_key_in_stable_order() -> None:
    more = {
        "gpu-0": (
            Taint(key="gpu.nvidia.com/xid", value="79"),
            Taint(key="gpu.nvidia.com/gpu-lost", effect="None"),
        )
    }
    pool = slices.build(an_inventory(a_gpu(state=GpuState.LOST)), TAINTS, more)
    assert pool.devices[0]["taints"] == [
        {"key": "gpu.nvidia.com/gpu-lost", "effect": "NoSchedule"},
        {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoSchedule"},
    ]
    assert "taints" not in slices.build(an_inventory(a_gpu()), PLAIN, more).devices[0]


@pytest.mark.parametrize(
    ("shares", "default", "least"),
    [("unlimited", "0", "0"), ("memory", "80Gi", "1Mi"), ("4", "0", "0")],
)
def test_memory_shares_have_request_policy(shares: str, default: str, least: str) -> None:
    device = one_device(a_gpu(memory_bytes=80 * 2**30 + 4096), SliceSettings(shares=shares))
    assert device["allowMultipleAllocations"] is True
    assert device["capacity"]["memory"] == {
        "value": "80Gi",
        "requestPolicy": {
            "default": default,
            "validRange": {"min": least, "max": "80Gi", "step": "1Mi"},
        },
    }


def test_number_of_shares_is_separate_capacity() -> None:
    device = one_device(a_gpu(), SliceSettings(shares="4"))
    assert device["capacity"]["shares"] == {
        "value": "4",
        "requestPolicy": {"default": "1", "validRange": {"min": "1", "max": "4", "step": "1"}},
    }


def test_single_share_has_no_step() -> None:
    device = one_device(a_gpu(), SliceSettings(shares="1"))
    policy = {"default": "1", "validRange": {"min": "1", "max": "1"}}
    assert device["capacity"]["shares"] == {"value": "1", "requestPolicy": policy}


def test_share_number_applies_without_known_memory() -> None:
    device = one_device(a_gpu(memory_bytes=None), SliceSettings(shares="4"))
    assert device["allowMultipleAllocations"] is True
    assert device["capacity"].keys() == {"shares"}
    assert device["capacity"]["shares"]["value"] == "4"


def test_memory_shares_without_known_memory_are_exclusive() -> None:
    settings = SliceSettings(shares="memory")
    device = one_device(a_gpu(memory_bytes=None), settings)
    assert "allowMultipleAllocations" not in device and "capacity" not in device
    (note,) = slices.explain(an_inventory(a_gpu(memory_bytes=None)), settings)
    assert "one claim at a time" in note
