"""The protocol of a device kind (full GPU, MIG part, passthrough) and the data that kinds share.

``discover``, ``describe``, ``plan`` and ``details`` are pure. ``verify`` and ``edits`` read /dev and sysfs and work
from the record of a claim, also for a GPU that NVML does not list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from nvdra_core.api import Config
from nvdra_core.runtime.clock import Deadline
from nvdra_node.cdi.edits import ContainerEdits
from nvdra_node.checkpoint.claim import AllocationResult
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.gpu.model import Gpu, Inventory
from nvdra_node.kubeletplugin.driver import Effect


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """An allocatable device of a physical GPU. Kinds add fields in subclasses."""

    name: str
    kind: str
    gpu: Gpu
    parts: tuple[str, ...] = ()
    """Parts of the GPU that it occupies (``memory-slice-3``); empty: the whole GPU."""
    withheld: str = ""
    """Why it is neither published nor prepared; empty: it is."""

    @property
    def holds(self) -> tuple[str, ...]:
        """Its hardware, for locks and records (``claims.overlap``)."""
        return (self.gpu.hold, *(f"{self.gpu.hold}/{part}" for part in self.parts))


class SliceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What feature gates and configuration decide about published devices."""

    taints: bool = False
    """NVMLDeviceHealthCheck: publish unhealthy devices with taints. False: withhold them."""
    list_attributes: bool = False
    """DRAListTypeAttributes: ``numaNode`` is a list of one."""
    shares: str = "disabled"
    """ConsumableShares: ``disabled``, ``memory``, ``unlimited`` or a positive number."""
    module_ids: bool = False
    """FabricManagerPartitioning: publish ``gpuModuleID``."""


class Description(msgspec.Struct, kw_only=True):
    """What a ResourceSlice says of a device (resource.k8s.io/v1 JSON)."""

    attributes: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    capacity: dict[str, Any] = msgspec.field(default_factory=dict)
    counters: Mapping[str, int] = msgspec.field(default_factory=dict)
    """What it consumes of its GPU's counter set."""
    is_shared: bool = False
    """Whether several claims may have it at once."""


class Allotment(msgspec.Struct, frozen=True, kw_only=True):
    """A device allocated to a claim, with its configuration."""

    device: Device
    result: AllocationResult
    config: Config | None = None
    """Validated, with defaults filled in; None: the kind's default."""
    where: str = ""
    """Claim and position of ``config``, for errors."""


class KindPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What preparing a claim's devices of one kind changes on the host."""

    effects: tuple[Effect, ...] = ()
    restart: bool = False
    """See ``Plan.restart``."""


class DeviceKind(Protocol):
    """One kind of devices. Thread safe."""

    name: str
    """Published attribute ``type``, ``PreparedDevice.kind`` and metric label: ``gpu``, ``mig``, ``vfio``."""
    config: str
    """The kind of opaque config that its devices take (``GpuConfig``)."""

    def discover(self, inventory: Inventory) -> Sequence[Device]:
        """All its devices on this node, in the scheduler's order of preference. Pure."""

    def describe(self, device: Device, settings: SliceSettings) -> Description:
        """The device in a ResourceSlice. Never raises: a fact that the API would refuse is omitted. Pure."""

    def config_key(self, config: Config | None) -> str:
        """Equal for configs that configure a device alike; empty for the default. Pure."""

    def plan(self, allotments: Sequence[Allotment]) -> KindPlan:
        """Effects for all devices of this kind that a claim uses (without admin access), together. Pure.

        Raises ClaimError, NotReadyError, HostError.
        """

    def details(self, device: Device, effects: Sequence[Effect]) -> dict[str, Any]:
        """What the claim's record keeps of the device. ``effects``: the claim's, with outcomes. Pure."""

    def verify(self, prepared: PreparedDevice, deadline: Deadline) -> None:
        """Check that the device of a record exists and is the same. Raises as ``Driver.verify``."""

    def edits(self, prepared: PreparedDevice) -> ContainerEdits:
        """Container edits of the device of a record, with current device numbers. Raises HostError, NotReadyError."""
