"""GPUs as this node knows them: frozen data between discovery, slices and plans. Pure.

``Device`` is a union: full GPUs now; MIG specs (not yet made), live MIG devices and passthrough functions have their
places beside ``Gpu``.
"""

from __future__ import annotations

from enum import Enum

import msgspec

HOLD_PREFIX = "gpu:"
"""Begins the key of a physical GPU in locks and records."""


class GpuState(str, Enum):
    """What the last look at a GPU showed."""

    OK = "ok"
    LOST = "lost"
    """NVML_ERROR_GPU_IS_LOST: fell off the bus; stays so until reset or reboot."""
    HUNG = "hung"
    """A call on it did not return in time; the first use of a GPU without persistence mode has a longer time."""
    FAILED = "failed"
    """Any other NVML error while reading it."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A full GPU. Sources: NVML functions as named, sysfs files as named."""

    minor: int
    """nvmlDeviceGetMinorNumber: /dev/nvidia<minor>."""
    uuid: str
    pci_address: str
    """``dddd:bb:dd.f``, lower case."""
    product_name: str
    brand: str
    architecture: str
    cuda_compute_capability: str
    """Semver, ``9.0.0``; empty when it could not be read."""
    driver_version: str
    """As NVML says it, ``580.65.06``; ``slices`` normalises it to semver."""
    cuda_driver_version: str
    """Semver, ``13.0.0``."""
    memory_bytes: int | None
    """nvmlDeviceGetMemoryInfo.total; None on systems that do not report it."""
    addressing_mode: str | None
    """``ATS``, ``HMM``, ``None``; None when the driver cannot say."""
    numa_node: int | None
    pcie_root: str | None
    mig_enabled: bool = False
    module_id: int | None = None
    driver_instance: str = ""
    """``Sysfs.driver_instance`` under which all this was read: the minor is of that instance."""
    drm: tuple[str, ...] = ()
    """Names of its DRM nodes when it was read, to see that they changed; who gives them away reads them again."""
    persistence: bool | None = None
    """nvmlDeviceGetPersistenceMode; False: the driver forgets the GPU when no process uses it, and the next use takes
    seconds. None: unknown."""
    index: int = -1
    """NVML's index at the last look that read it; changes with reboots and when GPUs go. Never an identity."""
    state: GpuState = GpuState.OK
    message: str = ""
    """Why the state is not OK, for taints and health reports."""

    @property
    def name(self) -> str:
        """Canonical device name."""
        return f"gpu-{self.minor}"

    @property
    def hold(self) -> str:
        """Key of the physical GPU in locks and records."""
        return f"{HOLD_PREFIX}{self.uuid}"


Device = Gpu
"""Everything that can be allocated. Grows to ``Gpu | MigDevice | MigSpec | VfioGpu``."""


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the node. ``driver_version`` None: the driver is not loaded, there are no devices."""

    devices: tuple[Device, ...]
    driver_version: str | None
    notes: tuple[str, ...] = ()
    """What could not be read, for logs and doctor."""
    is_partial: bool = False
    """GPUs that NVML lists have not answered yet: one that is not in ``devices`` may be among them."""

    def find(self, name: str) -> Device | None:
        """The device of that canonical name."""
        return next((d for d in self.devices if d.name == name), None)
