"""The driver gpu.nvidia.com: implements ``kubeletplugin.driver`` by dispatching to device kinds and effects."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nvdra_core.errors import HostError, NotReadyError
from nvdra_core.gates import FeatureGates
from nvdra_core.runtime.clock import Deadline
from nvdra_node.cdi.edits import CdiDevice, ClaimSpec
from nvdra_node.checkpoint.claim import Claim
from nvdra_node.checkpoint.model import PreparedDevice, Record
from nvdra_node.gpu import catalog, slices
from nvdra_node.gpu import plan as planning
from nvdra_node.gpu.catalog import Catalog
from nvdra_node.gpu.effects.base import Effects
from nvdra_node.gpu.inventory.rescan import Rescanner
from nvdra_node.gpu.kinds.base import DeviceKind, SliceSettings
from nvdra_node.gpu.registry import Registry
from nvdra_node.gpu.taints import Taint, TaintStore
from nvdra_node.kubeletplugin.claims import effects as effect_rules
from nvdra_node.kubeletplugin.driver import Effect, Outcome, Plan, Pool, Prepared

RESET_FAILED = "gpu.nvidia.com/reset-failed"
"""Taint of a GPU whose settings of an ended claim cannot be reset: it would refuse each claim."""


class GpuDriver:
    """See kubeletplugin.driver.Driver."""

    name = "gpu.nvidia.com"

    def __init__(
        self,
        registry: Registry,
        source: Rescanner,
        gates: FeatureGates,
        settings: SliceSettings,
        taints: TaintStore | None = None,
    ) -> None:
        self._kinds = {kind.name: kind for kind in registry.kinds}
        self._effects = Effects(registry.effects)
        self._source = source
        self._gates = gates
        self._settings = settings
        self._taints = taints or TaintStore()
        self._catalog = catalog.build(source.inventory, registry.kinds)
        self._pool: tuple[Catalog, int, Pool] | None = None

    def pool(self) -> Pool:
        """See Driver. Built once per scan and change of taints."""
        current, generation = self._current(), self._taints.generation
        cached = self._pool
        if cached is None or cached[0] is not current or cached[1] != generation:
            built = slices.build(current, self._kinds, self._settings, self._taints)
            self._pool = cached = (current, generation, built)
        return cached[2]

    def subscribe(self, changed: Callable[[], None]) -> None:
        """See Driver."""
        self._source.subscribe(changed)
        self._taints.subscribe(changed)

    def plan(self, claim: Claim, others: Sequence[Record]) -> Plan:
        """See Driver."""
        allotments = planning.allot(claim, self._current(), self._kinds, self._gates)
        return planning.plan(claim, allotments, self._kinds, others)

    def release(self, record: Record, others: Sequence[Record]) -> Sequence[Effect]:
        """See Driver."""
        return effect_rules.unneeded(record, others)

    def capture(self, effect: Effect, deadline: Deadline) -> Effect:
        """See Driver."""
        return self._effects.handler(effect).capture(effect, deadline)

    def apply(self, effect: Effect, deadline: Deadline) -> Outcome:
        """See Driver."""
        return self._effects.handler(effect).apply(effect, deadline)

    def undo(self, effect: Effect, deadline: Deadline) -> None:
        """See Driver."""
        self._effects.handler(effect).undo(effect, deadline)

    def owed(self) -> Sequence[str]:
        """See Driver."""
        return self._effects.owed()

    def settle(self, holds: Sequence[str], deadline: Deadline) -> None:
        """See Driver. A hold whose debts cannot be settled is tainted until they are."""
        for hold in holds:
            try:
                self._effects.settle(hold, deadline)
            except (HostError, NotReadyError) as error:
                self._taints.set("debts", hold, [Taint(key=RESET_FAILED, message=str(error))])
                raise
            self._taints.set("debts", hold, ())

    def finish(self, claim: Claim, plan: Plan, effects: Sequence[Effect]) -> Prepared:
        """See Driver. Reads the current device nodes; ``verify`` detects an outdated scan."""
        devices = planning.prepared_devices(claim, self._current(), self._kinds, effects)
        return Prepared(devices=devices, spec=self._spec(devices))

    def verify(self, record: Record, deadline: Deadline) -> None:
        """See Driver."""
        for device in record.devices:
            self._kind(device).verify(device, deadline)
        for effect in record.effects:
            self._effects.handler(effect).verify(effect, deadline)

    def edits(self, record: Record) -> ClaimSpec:
        """See Driver."""
        return self._spec(record.devices)

    def _current(self) -> Catalog:
        inventory = self._source.inventory
        if self._catalog.inventory is not inventory:
            self._catalog = catalog.build(inventory, self._kinds.values())
        return self._catalog

    def _spec(self, devices: Sequence[PreparedDevice]) -> ClaimSpec:
        return ClaimSpec(
            devices=tuple(
                CdiDevice(name=_cdi_name(device), edits=self._kind(device).edits(device))
                for device in devices
            )
        )

    def _kind(self, device: PreparedDevice) -> DeviceKind:
        """Raises HostError: the record is from a newer release."""
        if device.kind not in self._kinds:
            raise HostError(
                f"the record of {device.device} has the device kind {device.kind!r}, which this release does not know:"
                " install the release that prepared the claim, or a newer one"
            )
        return self._kinds[device.kind]


def _cdi_name(device: PreparedDevice) -> str:
    """Raises HostError."""
    if not device.cdi_ids:
        raise HostError(f"the record of {device.device} names no CDI device; delete the pod")
    return device.cdi_ids[0].rpartition("=")[2]
