"""The driver gpu.nvidia.com: wires inventory, plans, effects and verification into what ``kubeletplugin`` calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from nvdra_core.errors import DeviceMovedError, EffectLostError, HostError, NotReadyError
from nvdra_core.gates import FeatureGates
from nvdra_core.runtime.clock import Deadline
from nvdra_node.cdi.edits import CdiDevice, ClaimSpec
from nvdra_node.checkpoint.claim import Claim
from nvdra_node.checkpoint.model import Record
from nvdra_node.gpu import edits, given, slices
from nvdra_node.gpu import effects as gpu_effects
from nvdra_node.gpu import plan as planning
from nvdra_node.gpu.apply import Effects
from nvdra_node.gpu.edits import EditSettings, GpuNodes, Placed, drm_path, gpu_path
from nvdra_node.gpu.given import Given
from nvdra_node.gpu.model import HOLD_PREFIX, Gpu, GpuState, Inventory
from nvdra_node.host.ports import NodeStat
from nvdra_node.kubeletplugin.claims import effects as effect_rules
from nvdra_node.kubeletplugin.driver import Effect, Outcome, Plan, Pool, Prepared

_GPU_MAJOR = 195
"""Of /dev/nvidia<minor>, fixed in NVIDIA's driver."""


class InventorySource(Protocol):
    """Who knows the GPUs (``watch``)."""

    @property
    def inventory(self) -> Inventory:
        """The last look; empty before the first one."""

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` after each look that found something else."""

    def trigger(self, why: str) -> None:
        """Look again soon."""


class GpuDriver:
    """See kubeletplugin.driver.Driver."""

    name = "gpu.nvidia.com"

    def __init__(
        self,
        effects: Effects,
        source: InventorySource,
        gates: FeatureGates,
        settings: slices.SliceSettings,
        hook: Path,
    ) -> None:
        """``hook``: nvidia-cdi-hook as the container runtime sees it."""
        self._effects = effects
        self._sysfs = effects.host.sysfs
        self._source = source
        self._gates = gates
        self._settings = settings
        self._edits = EditSettings(dev=effects.host.roots.dev, hook=hook)

    def pool(self) -> Pool:
        """See Driver."""
        return slices.build(self._source.inventory, self._settings)

    def subscribe(self, changed: Callable[[], None]) -> None:
        """See Driver."""
        self._source.subscribe(changed)

    def plan(self, claim: Claim, others: Sequence[Record]) -> Plan:
        """See Driver."""
        return planning.plan(claim, self._source.inventory, others, self._gates)

    def release(self, record: Record, others: Sequence[Record]) -> Sequence[Effect]:
        """See Driver."""
        return effect_rules.unneeded(record, others)

    def capture(self, effect: Effect, deadline: Deadline) -> Effect:
        """See Driver."""
        return self._effects.capture(gpu_effects.decode(effect), deadline).to_json()

    def apply(self, effect: Effect, deadline: Deadline) -> Outcome:
        """See Driver. Tells under which instance of the driver it was applied: it ends with that."""
        outcome = {"driver": self._instance()}
        self._effects.apply(gpu_effects.decode(effect), deadline)
        return outcome

    def undo(self, effect: Effect, deadline: Deadline) -> None:
        """See Driver."""
        decoded = gpu_effects.decode(effect)
        self._effects.undo(decoded, deadline, is_asked=self._can_answer(decoded.uuid))

    def owed(self) -> Sequence[str]:
        """See Driver."""
        return [f"{HOLD_PREFIX}{uuid}" for uuid in self._effects.owed()]

    def settle(self, holds: Sequence[str], deadline: Deadline) -> None:
        """See Driver. A GPU that is sick is given to a pod that tolerates that, also when it owes something: it is
        settled once it answers."""
        for hold in holds:
            uuid = hold.removeprefix(HOLD_PREFIX)
            try:
                self._effects.settle(uuid, deadline, is_asked=self._can_answer(uuid))
            except (HostError, NotReadyError) as error:
                raise HostError(
                    f"GPU {uuid} has the time slice of a claim that ended, and it cannot be reset: {error}; it is tried"
                    " again; reset the GPU if that does not help"
                ) from error

    def finish(self, claim: Claim, plan: Plan, effects: Sequence[Effect]) -> Prepared:
        """See Driver. Reads the device nodes as they are now; ``verify`` sees when what is known of a GPU is older."""
        inventory = self._source.inventory
        driver = str(effects[0]["outcome"]["driver"]) if effects else self._instance()
        gpus = [planning.find_gpu(inventory, result.device) for result in claim.results]
        nodes = {gpu.uuid: self._nodes(gpu) for gpu in gpus}
        return planning.finish(claim, inventory, nodes, driver, self._edits)

    def verify(self, record: Record, deadline: Deadline) -> None:
        """See Driver. What the last look knows of the GPU and what /dev says of its node now."""
        devices = [given.read(device) for device in record.devices]
        for device in devices:
            self._verify_device(device)
        sliced = {gpu_effects.decode(effect).uuid for effect in record.effects}
        instance = self._instance()
        for device in devices:
            if device.uuid in sliced and device.driver != instance:
                raise EffectLostError(
                    f"{device.device} ({device.uuid}) has lost its time slice, as the NVIDIA driver was loaded again"
                )

    def edits(self, record: Record) -> ClaimSpec:
        """See Driver."""
        devices = []
        for device in map(given.read, record.devices):
            gpu = self._gpu(device.uuid)
            place = device if gpu is None else gpu
            made = edits.full_gpu(place, self._nodes(place), self._edits)
            devices.append(CdiDevice(name=device.cdi_name, edits=made))
        return ClaimSpec(devices=tuple(devices))

    def _verify_device(self, device: Given) -> None:
        gpu = self._gpu(device.uuid)
        if gpu is None:
            self._verify_unlisted(device)
        else:
            self._check_reading(gpu)
            planning.check_mode(gpu)
            if gpu.minor != device.minor:
                raise DeviceMovedError(
                    f"{device.device} ({device.uuid}) is {gpu_path(gpu)} now and was {gpu_path(device)}: delete the pod"
                    " so that it is prepared anew"
                )
        self._gpu_node(gpu_path(device), device.minor)

    def _verify_unlisted(self, device: Given) -> None:
        """A GPU that NVML does not list: not looked at yet, or lost before this process began."""
        known = self._source.inventory.devices
        if any(gpu.minor == device.minor for gpu in known):
            raise DeviceMovedError(
                f"{gpu_path(device)} is another GPU now, and {device.device} ({device.uuid}) is not on this node any"
                " more: delete the pod"
            )
        is_same_driver = device.driver == self._instance()
        if not known and (is_same_driver or not device.driver):
            return
        if not known:
            raise NotReadyError(
                f"{device.device} ({device.uuid}) was not read yet since the NVIDIA driver was loaded again",
                retry_after_s=0.5,
            )
        if not is_same_driver or self._sysfs.pci_driver(device.pci_address) != "nvidia":
            self._source.trigger(f"{device.device} is gone")
            raise HostError(f"{device.device} ({device.uuid}) is not on this node any more")

    def _check_reading(self, gpu: Gpu) -> None:
        """What is known of a GPU is of the driver that is loaded now, or NotReadyError: its minor may be another's."""
        if gpu.driver_instance != self._instance():
            self._source.trigger(f"the driver was loaded again since {gpu.name} was read")
            raise NotReadyError(
                f"{gpu.name} ({gpu.uuid}) was not read yet since the NVIDIA driver was loaded",
                retry_after_s=0.5,
            )

    def _gpu(self, uuid: str) -> Gpu | None:
        return next((gpu for gpu in self._source.inventory.devices if gpu.uuid == uuid), None)

    def _can_answer(self, uuid: str) -> bool:
        """Whether it makes sense to ask a GPU: each call on one that hangs can leave a process in the kernel."""
        gpu = self._gpu(uuid)
        if gpu is None:
            return not self._source.inventory.devices
        return gpu.state in (GpuState.OK, GpuState.FAILED)

    def _instance(self) -> str:
        return self._sysfs.driver_instance() or ""

    def _nodes(self, gpu: Placed) -> GpuNodes:
        """Its device nodes now. DRM nodes are found by PCI address: their names are dealt out with each load."""
        drm = {
            name: stat
            for name in (self._sysfs.drm_nodes(gpu.pci_address) if gpu.pci_address else ())
            if (stat := self._sysfs.device_node(drm_path(name))) is not None
        }
        return GpuNodes(gpu=self._gpu_node(gpu_path(gpu), gpu.minor), drm=drm)

    def _gpu_node(self, path: str, minor: int) -> NodeStat:
        stat = self._sysfs.device_node(path)
        if stat is None:
            raise NotReadyError(
                f"{path} does not exist: run nvidia-modprobe -c {minor}", retry_after_s=1.0
            )
        if (stat.major, stat.minor) != (_GPU_MAJOR, minor):
            raise HostError(
                f"{path} is device {stat.major}:{stat.minor} and should be {_GPU_MAJOR}:{minor}: remove it "
                f"and run nvidia-modprobe -c {minor}"
            )
        return stat
