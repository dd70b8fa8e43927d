"""The devices of all kinds that one inventory gives, by name. Pure; built once per scan by ``driver``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from nvdra_core.errors import HostError, NotReadyError, UnknownDeviceError
from nvdra_node.gpu.inventory import causes
from nvdra_node.gpu.kinds.base import Device, DeviceKind
from nvdra_node.gpu.model import Inventory


class Catalog(msgspec.Struct, frozen=True):
    """Devices of one inventory."""

    inventory: Inventory
    devices: Sequence[Device]
    """In the order of publication: kind by kind."""

    def find(self, name: str) -> Device:
        """The device of that name, healthy or not. Raises UnknownDeviceError, NotReadyError, HostError."""
        device = next((device for device in self.devices if device.name == name), None)
        if device is None:
            raise self._unknown(name)
        if device.withheld:
            raise HostError(f"{name} ({device.gpu.uuid}) cannot be prepared: {device.withheld}")
        return device

    def _unknown(self, name: str) -> UnknownDeviceError | NotReadyError:
        if not self.inventory.gpus:
            return NotReadyError(
                f"no GPU is known on this node yet, also not {name}: is the NVIDIA driver loaded?",
                retry_after_s=0.5,
            )
        if self.inventory.is_partial:
            return NotReadyError(
                f"{name} was not read yet: GPUs of this node have not answered NVML; {causes.COLD}",
                retry_after_s=0.5,
            )
        known = ", ".join(sorted(device.name for device in self.devices))
        return UnknownDeviceError(f"device {name} is not on this node; it has {known}")


def build(inventory: Inventory, kinds: Iterable[DeviceKind]) -> Catalog:
    """The devices of an inventory."""
    devices = [device for kind in kinds for device in kind.discover(inventory)]
    return Catalog(inventory, devices)
