"""Physical GPUs of this node, as the last scan found them. Pure. Allocatable devices are ``kinds.base.Device``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec

HOLD_PREFIX = "gpu:"
"""Prefix of a physical GPU's key in locks and records."""


class GpuState(str, Enum):
    """State of a GPU in the last scan."""

    OK = "ok"
    LOST = "lost"
    """NVML_ERROR_GPU_IS_LOST: fell off the bus; until a reset or reboot."""
    HUNG = "hung"
    """A call on it did not return in time; the first use of a GPU without persistence mode has a longer limit."""
    FAILED = "failed"
    """Any other NVML error while reading it."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A physical GPU. Sources: NVML functions and sysfs files as named."""

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
    """NVML's spelling, ``580.65.06``; published as semver."""
    cuda_driver_version: str
    """Semver, ``13.0.0``."""
    memory_bytes: int | None
    """nvmlDeviceGetMemoryInfo.total; None: not reported (unified memory)."""
    addressing_mode: str | None
    """``ATS``, ``HMM``, ``None``; None: not reported."""
    numa_node: int | None
    pcie_root: str | None
    mig_enabled: bool = False
    module_id: int | None = None
    counters: Mapping[str, int] = msgspec.field(default_factory=dict)
    """What its partitions share (KEP-4815 counter set), by counter name; empty: it is not partitionable."""
    driver_instance: str = ""
    """``Sysfs.driver_instance`` of the scan: the minor is valid for that instance."""
    drm: tuple[str, ...] = ()
    """Names of its DRM nodes in the scan, to notice changes; container edits read them again."""
    persistence: bool | None = None
    """nvmlDeviceGetPersistenceMode; False: the driver deinitialises the GPU when no process uses it, and the next use
    takes seconds. None: unknown."""
    index: int = -1
    """NVML's index in the last scan that read it; changes with reboots and when GPUs leave. Never an identity."""
    state: GpuState = GpuState.OK
    message: str = ""
    """Why the state is not OK, for taints and health reports."""

    @property
    def name(self) -> str:
        """Name of the full GPU as a device."""
        return f"gpu-{self.minor}"

    @property
    def hold(self) -> str:
        """Key of the physical GPU in locks and records."""
        return f"{HOLD_PREFIX}{self.uuid}"


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a scan. ``driver_version`` None: the driver is not loaded, there are no GPUs."""

    gpus: tuple[Gpu, ...]
    driver_version: str | None
    notes: tuple[str, ...] = ()
    """What could not be read, for logs and the health endpoint."""
    is_partial: bool = False
    """Some GPUs have not answered NVML yet: one that is not in ``gpus`` may be among them."""

    def find(self, uuid: str) -> Gpu | None:
        """The GPU with that UUID."""
        return next((gpu for gpu in self.gpus if gpu.uuid == uuid), None)
