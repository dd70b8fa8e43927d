"""Which GPU a claim was given, as its record says it: by UUID and PCI address, and by the numbers of that time. Pure.

Minors and names of device nodes are dealt out anew whenever the driver is loaded. So a record keeps the driver's
instance beside them, and who gives a device to a container again looks up by UUID and PCI address what it has now.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nvdra_core.errors import HostError
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.gpu.model import Gpu


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU given to a claim."""

    device: str
    uuid: str
    minor: int
    pci_address: str
    """Empty in records of earlier releases."""
    driver: str
    """``Sysfs.driver_instance`` when it was given and its time slice set; empty as well."""
    cdi_name: str


def details(gpu: Gpu, driver: str) -> dict[str, Any]:
    """For the record."""
    return {
        "uuid": gpu.uuid,
        "minor": gpu.minor,
        "pciAddress": gpu.pci_address,
        "driver": driver,
    }


def read(device: PreparedDevice) -> Given:
    """From the record. Raises HostError."""
    found = device.details
    given = Given(
        device=device.device,
        uuid=found.get("uuid", ""),
        minor=found.get("minor", -1),
        pci_address=found.get("pciAddress", ""),
        driver=found.get("driver", ""),
        cdi_name=device.cdi_ids[0].rpartition("=")[2] if device.cdi_ids else "",
    )
    texts = (given.uuid, given.pci_address, given.driver)
    is_sound = all(isinstance(text, str) for text in texts) and type(given.minor) is int
    if not is_sound or not given.uuid or given.minor < 0 or not given.cdi_name:
        raise HostError(
            f"the record of {device.device} does not say which GPU it is: {dict(found)}; delete the pod so that it is"
            " prepared anew"
        )
    return given
