"""Attributes and capacity that devices of several kinds publish. Pure. Used by ``describe`` of each kind."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from nvdra_core import quantity
from nvdra_core.errors import MalformedTextError
from nvdra_node.gpu.kinds import semver
from nvdra_node.gpu.kinds.base import Description, SliceSettings
from nvdra_node.gpu.model import Gpu

MAX_STRING_BYTES = 64
"""The API's limit for string attributes."""

_PCI_BUS_ID = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")
_MIB = 2**20


def add_string(description: Description, key: str, text: str) -> None:
    """Add a string attribute, shortened to what the API accepts."""
    raw = text.encode()
    if len(raw) > MAX_STRING_BYTES:
        text = raw[:MAX_STRING_BYTES].decode(errors="ignore")
    description.attributes[key] = {"string": text}


def add_version(description: Description, key: str, text: str) -> None:
    """Add a version attribute in strict form; omitted when there is none."""
    with contextlib.suppress(MalformedTextError):
        description.attributes[key] = {"version": semver.normalize(text)}


def add_gpu(description: Description, gpu: Gpu, settings: SliceSettings) -> None:
    """Add the attributes of a physical GPU."""
    add_string(description, "productName", gpu.product_name)
    add_string(description, "brand", gpu.brand)
    add_string(description, "architecture", gpu.architecture)
    add_version(description, "cudaComputeCapability", gpu.cuda_compute_capability)
    add_version(description, "driverVersion", gpu.driver_version)
    add_version(description, "cudaDriverVersion", gpu.cuda_driver_version)
    if _PCI_BUS_ID.fullmatch(gpu.pci_address):
        add_string(description, "resource.kubernetes.io/pciBusID", gpu.pci_address)
    if gpu.pcie_root is not None:
        add_string(description, "resource.kubernetes.io/pcieRoot", gpu.pcie_root)
    if gpu.numa_node is not None:
        node = {"ints": [gpu.numa_node]} if settings.list_attributes else {"int": gpu.numa_node}
        description.attributes["resource.kubernetes.io/numaNode"] = node
    if gpu.addressing_mode is not None:
        add_string(description, "addressingMode", gpu.addressing_mode)


def add_memory(description: Description, memory_bytes: int | None, shares: str) -> None:
    """Add the memory capacity and, with consumable shares, what claims draw from it.

    Shares are accounting of the scheduler, without a limit at run time. Shares of memory need its size: without,
    nothing would limit their number, so the device is exclusive.
    """
    if memory_bytes is not None:
        description.capacity["memory"] = {"value": quantity.format_bytes(memory_bytes)}
    if shares == "disabled" or (shares == "memory" and memory_bytes is None):
        return
    description.is_shared = True
    description.capacity.update(_shared_capacity(memory_bytes, shares))


def _shared_capacity(memory_bytes: int | None, shares: str) -> dict[str, Any]:
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
