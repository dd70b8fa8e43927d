"""Kind ``gpu``: full GPUs, with time slicing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nvdra_core import api
from nvdra_core.api import Config, GpuConfig
from nvdra_core.errors import DeviceMovedError, HostError, InvalidConfigError, NotReadyError
from nvdra_core.gates import Gate
from nvdra_core.runtime.clock import Deadline
from nvdra_node.cdi.edits import ContainerEdits
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.gpu.effects.base import encode
from nvdra_node.gpu.effects.timeslice import DEFAULT_TIME_SLICE, SetTimeSlice
from nvdra_node.gpu.inventory.causes import node_path
from nvdra_node.gpu.inventory.rescan import Rescanner
from nvdra_node.gpu.kinds import attributes, recorded
from nvdra_node.gpu.kinds.base import Allotment, Description, Device, KindPlan, SliceSettings
from nvdra_node.gpu.kinds.nodes import DeviceNodes
from nvdra_node.gpu.kinds.recorded import RecordedGpu
from nvdra_node.gpu.model import Gpu, GpuState, Inventory
from nvdra_node.host.ports import Sysfs
from nvdra_node.kubeletplugin.driver import Effect


class FullGpus:
    """See DeviceKind."""

    name = "gpu"
    config = "GpuConfig"

    def __init__(self, source: Rescanner, sysfs: Sysfs, nodes: DeviceNodes) -> None:
        self._source = source
        self._sysfs = sysfs
        self._nodes = nodes

    def discover(self, inventory: Inventory) -> Sequence[Device]:
        """See DeviceKind. By minor number, so that the order survives rescans."""
        return [
            Device(name=gpu.name, kind=self.name, gpu=gpu, withheld=_withheld(gpu))
            for gpu in sorted(inventory.gpus, key=lambda gpu: gpu.minor)
        ]

    def describe(self, device: Device, settings: SliceSettings) -> Description:
        """See DeviceKind."""
        gpu, description = device.gpu, Description(counters=device.gpu.counters)
        attributes.add_string(description, "type", self.name)
        attributes.add_string(description, "uuid", gpu.uuid)
        attributes.add_gpu(description, gpu, settings)
        if settings.module_ids and gpu.module_id:
            description.attributes["gpuModuleID"] = {"int": gpu.module_id}
        attributes.add_memory(description, gpu.memory_bytes, settings.shares)
        return description

    def config_key(self, config: Config | None) -> str:
        """See DeviceKind."""
        if not isinstance(config, GpuConfig) or config.sharing is None:
            return ""
        return "" if _time_slice(config) == DEFAULT_TIME_SLICE else api.canonical_key(config)

    def plan(self, allotments: Sequence[Allotment]) -> KindPlan:
        """See DeviceKind. One effect per GPU, however many shares of it the claim has."""
        effects = {a.device.gpu.uuid: effect for a in allotments if (effect := _effect(a))}
        return KindPlan(effects=tuple(effects.values()))

    def details(self, device: Device, effects: Sequence[Effect]) -> dict[str, Any]:
        """See DeviceKind."""
        return recorded.details(device.gpu)

    def verify(self, prepared: PreparedDevice, deadline: Deadline) -> None:
        """See DeviceKind. Compares the record with the last scan and with /dev as it is now."""
        device = recorded.read(prepared)
        gpu = self._find(device)
        if gpu is None:
            self._verify_unlisted(device)
        else:
            self._verify_listed(device, gpu)
        self._nodes.gpu_node(device.minor)

    def edits(self, prepared: PreparedDevice) -> ContainerEdits:
        """See DeviceKind."""
        device = recorded.read(prepared)
        gpu = self._find(device) or device
        return self._nodes.edits(gpu.minor, gpu.pci_address)

    def _verify_listed(self, device: RecordedGpu, gpu: Gpu) -> None:
        if gpu.driver_instance != self._instance():
            self._source.trigger(f"the driver was loaded again since the scan of {gpu.name}")
            raise _unscanned(gpu.name, gpu.uuid)
        if why := _withheld(gpu):
            raise HostError(f"{gpu.name} ({gpu.uuid}) cannot be used whole: {why}")
        if gpu.minor != device.minor:
            raise DeviceMovedError(
                f"{device.device} ({device.uuid}) is {node_path(gpu.minor)} now and was {node_path(device.minor)}:"
                " delete the pod so that it is prepared again"
            )

    def _verify_unlisted(self, device: RecordedGpu) -> None:
        """Verify a GPU that NVML does not list: not scanned yet, or lost before this process started."""
        known = self._source.inventory.gpus
        if any(gpu.minor == device.minor for gpu in known):
            raise DeviceMovedError(
                f"{node_path(device.minor)} is another GPU now, and {device.device} ({device.uuid}) is not on this node"
                " any more: delete the pod"
            )
        is_same_driver = device.driver == self._instance()
        if not known:
            if is_same_driver or not device.driver:
                return
            raise _unscanned(device.device, device.uuid)
        if not is_same_driver or self._sysfs.pci_driver(device.pci_address) != "nvidia":
            self._source.trigger(f"{device.device} is missing")
            raise HostError(f"{device.device} ({device.uuid}) is not on this node any more")

    def _find(self, device: RecordedGpu) -> Gpu | None:
        return self._source.inventory.find(device.uuid)

    def _instance(self) -> str:
        return self._sysfs.driver_instance() or ""


def _withheld(gpu: Gpu) -> str:
    if not gpu.mig_enabled:
        return ""
    return f"its MIG mode is on: disable it (nvidia-smi -i {gpu.uuid} -mig 0)"


def _unscanned(name: str, uuid: str) -> NotReadyError:
    return NotReadyError(
        f"{name} ({uuid}) was not read yet since the NVIDIA driver was loaded", retry_after_s=0.5
    )


def _effect(allotment: Allotment) -> Effect | None:
    """What the config changes on the GPU. Raises NotReadyError when it cannot be changed now."""
    config, gpu = allotment.config, allotment.device.gpu
    if not isinstance(config, GpuConfig):
        return None
    if config.sharing is not None and config.sharing.strategy is api.Strategy.MPS:
        raise InvalidConfigError(
            f"{allotment.where}: sharing strategy MPS (gate {Gate.MPS_SUPPORT.value}) is not in this release: use"
            " TimeSlicing"
        )
    time_slice = _time_slice(config)
    if time_slice is None:
        return None
    if gpu.state is not GpuState.OK:
        if time_slice == DEFAULT_TIME_SLICE:
            return None  # the GPU has it, unless a claim left another: then ``settle`` resets it
        raise NotReadyError(
            f"{gpu.name} ({gpu.uuid}) is {gpu.state.value}, so its time slice cannot be set:"
            f" {gpu.message or 'it cannot be read'}; reset it or reboot the node, or use interval Default"
        )
    return encode(SetTimeSlice(uuid=gpu.uuid, time_slice=time_slice))


def _time_slice(config: GpuConfig) -> int | None:
    if config.sharing is None or config.sharing.time_slicing_config is None:
        return None
    interval = config.sharing.time_slicing_config.interval
    return None if interval is None else interval.time_slice
