"""A second device kind, to test what the GPU driver guarantees for kinds that are not shipped yet.

Half GPUs of GPUs in MIG mode, made on demand by an effect: its outcome is the UUID of the half, and its undo needs neither
a listed GPU nor a minor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nvdra_core.api import Config
from nvdra_core.errors import HostError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.cdi.edits import ContainerEdits
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.gpu.kinds.base import Allotment, Description, Device, KindPlan, SliceSettings
from nvdra_node.gpu.model import Inventory
from nvdra_node.kubeletplugin.driver import Effect, Outcome

MAKE_HALF = "makeHalf"
COUNTERS = {"halves": 2}


class Halves:
    """See DeviceKind."""

    name = "half"
    config = "MigDeviceConfig"

    def __init__(self, made: dict[str, str]) -> None:
        """``made``: halves that exist, by device name, with their UUIDs."""
        self._made = made

    def discover(self, inventory: Inventory) -> Sequence[Device]:
        return [
            Device(name=f"{gpu.name}-half-{n}", kind=self.name, gpu=gpu, parts=(f"half-{n}",))
            for gpu in inventory.gpus
            if gpu.mig_enabled
            for n in range(2)
        ]

    def describe(self, device: Device, settings: SliceSettings) -> Description:
        return Description(attributes={"type": {"string": self.name}}, counters={"halves": 1})

    def config_key(self, config: Config | None) -> str:
        return ""

    def plan(self, allotments: Sequence[Allotment]) -> KindPlan:
        names = [allotment.device.name for allotment in allotments]
        effects = tuple({"kind": MAKE_HALF, "device": name} for name in names)
        return KindPlan(effects=effects, restart=True)

    def details(self, device: Device, effects: Sequence[Effect]) -> dict[str, Any]:
        [own] = [e for e in effects if e["kind"] == MAKE_HALF and e["device"] == device.name]
        return {"halfUuid": own["outcome"]["uuid"]}

    def verify(self, prepared: PreparedDevice, deadline: Deadline) -> None:
        if self._made.get(prepared.device) != prepared.details["halfUuid"]:
            raise HostError(f"{prepared.device} is another half now")

    def edits(self, prepared: PreparedDevice) -> ContainerEdits:
        return ContainerEdits(env=(f"HALF={prepared.details['halfUuid']}",))


class MakeHalf:
    """See EffectHandler."""

    kind = MAKE_HALF

    def __init__(self, made: dict[str, str]) -> None:
        self._made = made
        self._count = 0

    def capture(self, effect: Effect, deadline: Deadline) -> Effect:
        return effect

    def apply(self, effect: Effect, deadline: Deadline) -> Outcome:
        self._count += 1
        return {"uuid": self._made.setdefault(effect["device"], f"HALF-{self._count}")}

    def undo(self, effect: Effect, deadline: Deadline) -> None:
        outcome = effect.get("outcome")
        if outcome is None or self._made.get(effect["device"]) == outcome["uuid"]:
            self._made.pop(effect["device"], None)

    def verify(self, effect: Effect, deadline: Deadline) -> None:
        if effect["device"] not in self._made:
            raise HostError(f"{effect['device']} does not exist")

    def owed(self) -> Sequence[str]:
        return ()

    def settle(self, hold: str, deadline: Deadline) -> None:
        """Never owes."""
