"""The driver gpu.nvidia.com: wires inventory, plans, effects and verification into what ``kubeletplugin`` calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from nvdra_core.clock import Deadline
from nvdra_core.errors import HostError, NotReadyError
from nvdra_core.gates import FeatureGates
from nvdra_node.checkpoint.model import PreparedDevice, Record
from nvdra_node.gpu import effects as gpu_effects
from nvdra_node.gpu import plan as planning
from nvdra_node.gpu import slices
from nvdra_node.gpu.apply import Effects
from nvdra_node.gpu.edits import EditSettings, GpuNodes, drm_path, gpu_path
from nvdra_node.gpu.model import Gpu, GpuState, Inventory
from nvdra_node.host.host import Host
from nvdra_node.host.ports import NodeStat
from nvdra_node.kubeletplugin import effects as effect_rules
from nvdra_node.kubeletplugin.claim import Claim
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
        host: Host,
        source: InventorySource,
        gates: FeatureGates,
        settings: slices.SliceSettings,
        hook: Path,
    ) -> None:
        """``hook``: nvidia-cdi-hook as the container runtime sees it."""
        self._host = host
        self._source = source
        self._gates = gates
        self._settings = settings
        self._edits = EditSettings(dev=host.roots.dev, hook=hook)
        self._effects = Effects(host)

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
        """See Driver."""
        self._effects.apply(gpu_effects.decode(effect), deadline)
        return {}

    def undo(self, effect: Effect, deadline: Deadline) -> None:
        """See Driver. A GPU that is lost or gone has nothing to restore, and must not keep pods from ending."""
        decoded = gpu_effects.decode(effect)
        inventory = self._source.inventory
        gpu = next((gpu for gpu in inventory.devices if gpu.uuid == decoded.uuid), None)
        if inventory.devices and (gpu is None or gpu.state is GpuState.LOST):
            return
        self._effects.undo(decoded, deadline)

    def finish(self, claim: Claim, plan: Plan, outcomes: Sequence[Outcome]) -> Prepared:
        """See Driver. Reads the device nodes as they are now."""
        inventory = self._source.inventory
        gpus = [planning.find_gpu(inventory, result.device) for result in claim.results]
        nodes = {gpu.uuid: self._nodes(gpu) for gpu in gpus}
        return planning.finish(claim, inventory, nodes, self._edits)

    def verify(self, record: Record, deadline: Deadline) -> None:
        """See Driver. What the last look knows of the GPU and what /dev says of its node now."""
        inventory = self._source.inventory
        for device in record.devices:
            self._verify_device(device, inventory)

    def _verify_device(self, device: PreparedDevice, inventory: Inventory) -> None:
        uuid, minor = device.details.get("uuid"), device.details.get("minor")
        if not isinstance(uuid, str) or type(minor) is not int:
            raise HostError(
                f"the record of {device.device} does not say which GPU it is: {dict(device.details)}; "
                "delete the pod so that it is prepared anew"
            )
        gpu = next((gpu for gpu in inventory.devices if gpu.uuid == uuid), None)
        if gpu is not None:
            planning.check_mode(gpu)
        elif inventory.devices:
            self._source.trigger(f"{device.device} is gone")
            raise HostError(f"{device.device} ({uuid}) is not on this node any more")
        if gpu is not None and gpu.minor != minor:
            raise HostError(
                f"{device.device} ({uuid}) is /dev/nvidia{gpu.minor} now and was /dev/nvidia{minor}: "
                "delete the pod so that it is prepared anew"
            )
        self._gpu_node(f"/dev/nvidia{minor}", minor)

    def _nodes(self, gpu: Gpu) -> GpuNodes:
        sysfs = self._host.sysfs
        drm = {
            name: stat
            for name in sysfs.drm_nodes(gpu.pci_address)
            if (stat := sysfs.device_node(drm_path(name))) is not None
        }
        return GpuNodes(gpu=self._gpu_node(gpu_path(gpu), gpu.minor), drm=drm)

    def _gpu_node(self, path: str, minor: int) -> NodeStat:
        stat = self._host.sysfs.device_node(path)
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
