"""State of one GPU scan, and the conversion of NVML's facts about a GPU to ``Gpu``. Used by ``discover``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from nvdra_core.errors import FileError
from nvdra_node.gpu.inventory import causes
from nvdra_node.gpu.inventory.facts import (
    ADDRESSING_MODES,
    ARCHITECTURES,
    BRANDS,
    named,
    pci_address,
)
from nvdra_node.gpu.model import Gpu, GpuState, Inventory
from nvdra_node.host.host import Host

NOT_SUPPORTED = frozenset({3, 13})
"""NVML_ERROR_NOT_SUPPORTED and FUNCTION_NOT_FOUND: the GPU or the driver lacks the feature."""
GPU_IS_LOST = 15
"""NVML_ERROR_GPU_IS_LOST."""

DISPLAY_GPUS = frozenset({"DGX Display", "NVIDIA DGX Display"})
"""Boards that only drive a monitor; never published."""

USABLE_DRIVERS = ("nvidia", None)
"""Kernel drivers of a GPU that NVML may list; None: sysfs does not say."""

_IDENTITY = ("minor", "uuid", "name", "pci_bus_id", "mig_mode")
"""Facts without which a GPU is not published: it could not be identified, or would be published in the wrong mode."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Time limits of a scan in seconds, and what counts as usable."""

    open_s: float = 30.0
    """First answer of NVML: its initialisation takes up to seconds on large machines."""
    gpu_s: float = 2.0
    """Answer of a GPU with persistence mode, after which it counts as hung. Without: the NVML client's limit."""
    step_s: float = 0.5
    """Wait for one slow GPU before the scan goes on to the next."""
    again_s: float = 1.0
    """Second wait, for all slow GPUs together, at the end of the scan."""
    total_s: float = 20.0
    """For all GPUs together, from NVML's first answer; GPUs not reached keep their last known facts."""
    fabric: bool = True
    """Whether a GPU that is not registered with its NVLink fabric is unusable. False: partitions are made on demand."""


class Scan(msgspec.Struct, frozen=True):
    """A scan in progress. GPUs are keyed by their NVML index."""

    host: Host
    limits: Limits
    before: Inventory
    system: dict[str, Any]
    instance: str
    """``Sysfs.driver_instance``, from before anything was read."""
    read: list[Gpu] = msgspec.field(default_factory=list)
    unread: dict[int, tuple[GpuState, str]] = msgspec.field(default_factory=dict)
    """Why nothing could be read of a GPU."""
    slow: dict[int, float] = msgspec.field(default_factory=dict)
    """Duration so far, in seconds, of calls still in progress."""
    not_asked: list[int] = msgspec.field(default_factory=list)
    displays: set[str] = msgspec.field(default_factory=set)
    """UUIDs of display boards."""
    addresses: set[str] = msgspec.field(default_factory=set)
    """PCI addresses that NVML reported."""
    notes: list[str] = msgspec.field(default_factory=list)


def add_facts(scan: Scan, index: int, facts: Mapping[str, Any], errors: Mapping[str, Any]) -> None:
    """Add one GPU to the scan, as far as its facts allow."""
    address = pci_address(facts.get("pci_bus_id", ""))
    scan.addresses.add(address)
    if facts.get("name") in DISPLAY_GPUS:
        scan.displays.add(facts.get("uuid", ""))
        return
    if scan.host.sysfs.pci_driver(address) not in USABLE_DRIVERS:
        return  # bound to another driver during an open NVML session, which does not notice
    state, why = _state(scan, index, facts, errors)
    missing = [fact for fact in _IDENTITY[:4] if fact not in facts]
    if missing:
        why = why or f"NVML does not report {', '.join(missing)}"
        scan.unread[index] = (state if state is not GpuState.OK else GpuState.FAILED, why)
        return
    gpu = _gpu(scan, index, facts)
    if state is not GpuState.OK:
        known = next((old for old in scan.before.gpus if old.uuid == gpu.uuid), None)
        gpu = replace(_relocated(known, gpu) if known else gpu, state=state, message=why)
    scan.read.append(gpu)
    scan.notes.extend(f"{gpu.name}: {note}" for note in causes.limits(facts))


def _state(
    scan: Scan, index: int, facts: Mapping[str, Any], errors: Mapping[str, Any]
) -> tuple[GpuState, str]:
    state, why = GpuState.OK, ""
    for fact, error in errors.items():
        if error["code"] in NOT_SUPPORTED:
            continue
        text = f"{error['function']}: {error['message']} ({error['code']})"
        if error["code"] == GPU_IS_LOST:
            state, why = GpuState.LOST, text
        elif fact in _IDENTITY and state is GpuState.OK:
            state, why = GpuState.FAILED, text
        else:
            scan.notes.append(f"GPU at NVML index {index}: {text}")
    if state is GpuState.OK and (unusable := _unusable(scan, facts)):
        return GpuState.FAILED, unusable
    return state, why


def _unusable(scan: Scan, facts: Mapping[str, Any]) -> str:
    """Why no CUDA program can use a GPU that NVML can read; empty when nothing is known against it."""
    if why := causes.needs_recovery(facts) or causes.forbids_programs(facts):
        return why
    if scan.limits.fabric and (why := causes.without_fabric(facts)):
        return why
    minor = facts.get("minor", -1)
    try:
        return causes.wrong_node(minor, scan.host.sysfs.device_node(causes.node_path(minor)))
    except FileError as error:
        return str(error)


def _gpu(scan: Scan, index: int, facts: Mapping[str, Any]) -> Gpu:
    address = pci_address(facts["pci_bus_id"])
    numa_node, pcie_root = None, None
    try:
        pci = scan.host.sysfs.pci(address)
        numa_node, pcie_root = pci.numa_node, pci.pcie_root
    except FileError as error:
        scan.notes.append(f"gpu-{facts['minor']}: {error}")
    capability = facts.get("cuda_compute_capability")
    cuda = scan.system["cuda_driver_version"]
    return Gpu(
        index=index,
        driver_instance=scan.instance,
        drm=scan.host.sysfs.drm_nodes(address),
        minor=facts["minor"],
        uuid=facts["uuid"],
        pci_address=address,
        product_name=facts["name"],
        brand=named(BRANDS, facts.get("brand")),
        architecture=named(ARCHITECTURES, facts.get("architecture")),
        cuda_compute_capability=f"{capability[0]}.{capability[1]}.0" if capability else "",
        driver_version=scan.system["driver_version"],
        cuda_driver_version=f"{cuda // 1000}.{cuda % 1000 // 10}.0",
        memory_bytes=facts.get("memory_bytes"),
        addressing_mode=ADDRESSING_MODES.get(facts.get("addressing_mode", -1)),
        numa_node=numa_node,
        pcie_root=pcie_root,
        mig_enabled=facts.get("mig_mode", {}).get("current") == 1,
        module_id=facts.get("module_id"),
        persistence=None if "persistence" not in facts else facts["persistence"] == 1,
    )


def _relocated(known: Gpu, gpu: Gpu) -> Gpu:
    """A known GPU with the names and numbers that it has in this scan."""
    return replace(
        known,
        index=gpu.index,
        minor=gpu.minor,
        pci_address=gpu.pci_address,
        driver_instance=gpu.driver_instance,
        drm=gpu.drm,
    )
