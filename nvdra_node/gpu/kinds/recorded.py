"""The identity of a GPU in a claim's record: UUID and PCI address, and the device numbers of that time. Pure.

Minors and device node names change whenever the kernel driver is loaded. A record keeps the driver's instance beside
them; current numbers are found by UUID and PCI address.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nvdra_core.errors import HostError
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.gpu.model import Gpu


class RecordedGpu(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A GPU prepared for a claim. The PCI address and the driver's instance are empty in records of early releases."""

    uuid: str
    minor: int
    pci_address: str = ""
    driver: str = ""
    """``Sysfs.driver_instance`` that ``minor`` belongs to."""
    device: str = ""


def details(gpu: Gpu) -> dict[str, Any]:
    """The record's form of a GPU."""
    return {
        "uuid": gpu.uuid,
        "minor": gpu.minor,
        "pciAddress": gpu.pci_address,
        "driver": gpu.driver_instance,
    }


def read(prepared: PreparedDevice) -> RecordedGpu:
    """The GPU of a record. Raises HostError."""
    try:
        found = msgspec.convert({**prepared.details, "device": prepared.device}, RecordedGpu)
    except msgspec.ValidationError as error:
        raise _unidentified(prepared) from error
    if not found.uuid or found.minor < 0:
        raise _unidentified(prepared)
    return found


def _unidentified(prepared: PreparedDevice) -> HostError:
    return HostError(
        f"the record of {prepared.device} does not identify its GPU: {dict(prepared.details)}; delete the pod so that"
        " it is prepared again"
    )
