"""Published pools: devices, attributes, taints, shares; an invalid fact costs no more than its own attribute."""

from typing import Any

import pytest

from nvdra_node.gpu.kinds.base import SliceSettings
from nvdra_node.gpu.model import Gpu, GpuState, Inventory
from nvdra_node.gpu.taints import Taint, TaintStore
from nvdra_node.kubeletplugin.driver import Health
from tests.beds.memory.gpu_objects import a_gpu, a_pool, an_inventory

PLAIN = SliceSettings()
TAINTS = SliceSettings(taints=True)


def one_device(gpu: Gpu, settings: SliceSettings = PLAIN) -> dict[str, Any]:
    (device,) = a_pool(an_inventory(gpu), settings).devices
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
    assert [d["name"] for d in a_pool(an_inventory(*gpus), PLAIN).devices] == [
        "gpu-0",
        "gpu-2",
        "gpu-10",
    ]


def test_empty_inventory_gives_an_empty_pool() -> None:
    pool = a_pool(Inventory(gpus=(), driver_version=None), PLAIN)
    assert pool.devices == () and pool.health == ()


def test_gpu_in_mig_mode_is_not_published_whole() -> None:
    inventory = an_inventory(a_gpu(mig_enabled=True), a_gpu(1))
    assert [d["name"] for d in a_pool(inventory, PLAIN).devices] == ["gpu-1"]


def test_numa_node_is_list_with_gate() -> None:
    device = one_device(a_gpu(numa_node=1), SliceSettings(list_attributes=True))
    assert device["attributes"]["resource.kubernetes.io/numaNode"] == {"ints": [1]}


@pytest.mark.parametrize(("module_id", "published"), [(3, {"int": 3}), (0, None), (None, None)])
def test_module_id_is_published_with_gate(module_id: Any, published: Any) -> None:
    gpu = a_gpu(module_id=module_id)
    device = one_device(gpu, SliceSettings(module_ids=True))
    assert device["attributes"].get("gpuModuleID") == published
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
    (device,) = a_pool(inventory, PLAIN).devices
    assert attribute not in device["attributes"]


def test_long_strings_are_cut_at_a_character() -> None:
    inventory = an_inventory(a_gpu(product_name="x" * 63 + "é"))
    (device,) = a_pool(inventory, PLAIN).devices
    assert device["attributes"]["productName"] == {"string": "x" * 63}


@pytest.mark.parametrize("state", [GpuState.LOST, GpuState.HUNG, GpuState.FAILED])
def test_unhealthy_gpu_is_withheld_without_taints(state: GpuState) -> None:
    pool = a_pool(an_inventory(a_gpu(state=state, message="why"), a_gpu(1)), PLAIN)
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
    taints = TaintStore()
    hold = a_gpu().hold
    taints.set("xid", hold, [Taint(key="gpu.nvidia.com/xid", value="79")])
    taints.set("other", hold, [Taint(key="gpu.nvidia.com/gpu-lost", effect="None")])
    pool = a_pool(an_inventory(a_gpu(state=GpuState.LOST), a_gpu(1)), TAINTS, taints)
    assert pool.devices[0]["taints"] == [
        {"key": "gpu.nvidia.com/gpu-lost", "effect": "NoSchedule"},
        {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoSchedule"},
    ]
    assert "taints" not in pool.devices[1]


@pytest.mark.parametrize(("effect", "is_withheld"), [("NoSchedule", True), ("None", False)])
def test_blocking_taint_withholds_device_without_taints(effect: str, is_withheld: bool) -> None:
    taints = TaintStore()
    taints.set("test", a_gpu().hold, [Taint(key="k", effect=effect, message="why")])
    pool = a_pool(an_inventory(a_gpu()), PLAIN, taints)
    assert (pool.devices == ()) is is_withheld
    assert (pool.health[0].health is Health.UNHEALTHY) is is_withheld
    assert pool.health[0].message == ("why" if is_withheld else "")
    taints.set("test", a_gpu().hold, [])
    assert a_pool(an_inventory(a_gpu()), PLAIN, taints) == a_pool(an_inventory(a_gpu()))


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
