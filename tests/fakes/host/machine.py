"""A machine in memory: its GPUs, its driver and their faults. ``nvml``, ``sysfs`` and ``commands`` are views of it.

Tests change it while the code under test runs on it, so every view reads it again under the machine's lock.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from nvdra_node.host.ports import NodeStat
from tests.fakes.host.files import Faults

MAJOR_NVIDIA = 195
DRIVER_VERSION = "580.65.06"
GPU_IS_LOST = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeFabric:
    """How a GPU is registered with an NVLink fabric, in NVML's numbers."""

    cluster_uuid: str = "2b1c5d6e-0000-4000-8000-000000000007"
    clique_id: int = 32766
    state: int = 3
    """NVML_GPU_FABRIC_STATE_*: 0 not supported, 1 not started, 2 in progress, 3 completed."""
    status: int = 0
    health: int = 1
    """NVML_GPU_FABRIC_HEALTH_SUMMARY_*: 0 unsupported, 1 healthy, 2 unhealthy, 3 limited."""
    recovery_action: int = 0
    """NVML_GPU_RECOVERY_ACTION_*: 0 none."""


@dataclass(slots=True, kw_only=True)
class FakeGpu:
    """One GPU as seen by NVML, sysfs and /dev. All fields may be changed at any time."""

    minor: int
    uuid: str
    pci_bus_id: str
    """In NVML's form: eight digits of domain."""
    name: str = "NVIDIA H100 80GB HBM3"
    mig_mode: int | None = 0
    """None: not capable."""
    memory_bytes: int | None = 85520809984
    architecture: int = 9
    brand: int = 14
    cuda_compute_capability: tuple[int, int] = (9, 0)
    addressing_mode: int | None = 1
    """NVML's enumerator (2: ATS, 1: HMM, 0: none); None: not supported."""
    module_id: int | None = None
    compute_mode: int = 0
    """Volatile, as the time slice: lost when the driver is unloaded."""
    time_slice: int = 0
    has_time_slices: bool = True
    drm: tuple[str, ...] | None = None
    """Names of its DRM nodes; None: those that a machine with these GPUs alone has."""
    numa_node: int | None = 0
    pcie_root: str | None = "pci0000:15"
    pci_driver: str | None = "nvidia"
    fabric: FakeFabric | None = None
    """None: no NVLink fabric."""
    is_listed: bool = True
    """False: NVML does not list it, although it is bound to the driver."""
    is_excluded: bool = False
    hung: bool = False
    cold_s: float = 0.0
    """How long the first call on it takes."""
    is_persistent: bool = True
    """Persistence mode."""
    recovery_action: int = 0
    """NVML_GPU_RECOVERY_ACTION_* of a GPU without a fabric."""
    failing: dict[str, int] = field(default_factory=dict)
    """Fact (or ``handle``) -> NVML code it fails with; ``handle: 15`` is a lost GPU."""

    @property
    def address(self) -> str:
        """The PCI address as sysfs has it."""
        domain, rest = self.pci_bus_id.lower().split(":", 1)
        return f"{int(domain, 16):04x}:{rest}"


def fake_gpus(count: int) -> list[FakeGpu]:
    """That many healthy GPUs, all different."""
    return [
        FakeGpu(
            minor=n,
            uuid=f"GPU-{n:08x}-0000-4000-8000-000000000000",
            pci_bus_id=f"00000000:{0x18 + 8 * n:02X}:00.0",
            numa_node=n * 2 // count,
            pcie_root=f"pci0000:{0x15 + 8 * n:02x}",
            module_id=n + 1,
        )
        for n in range(count)
    ]


class FakeMachine:
    """The state behind a fake host. Safe for several threads."""

    def __init__(self, gpus: Iterable[FakeGpu] | None = None, faults: Faults | None = None) -> None:
        """``faults`` counts each change of a setting as a step, beside those of the files."""
        self.lock = threading.RLock()
        self.faults = faults or Faults()
        self.loads = 1
        """How often the driver was loaded since the boot."""
        self.gpus = list(fake_gpus(1) if gpus is None else gpus)
        self.version: str | None = DRIVER_VERSION
        """Version of the loaded driver; None: not loaded."""
        self.cuda_version = 13000
        self.boot_id = "11111111-2222-4333-8444-555555555555"
        self.nodes: dict[str, NodeStat | None] = {}
        """Device nodes by path, beside and instead of those of GPUs; None: missing."""
        self.unreadable_nodes: set[str] = set()
        """Paths of device nodes whose stat fails."""
        self.char_majors = {"nvidia": MAJOR_NVIDIA, "nvidia-caps": 235}
        self.xids: list[tuple[str, int]] = []
        """Critical XIDs not fetched yet: (GPU UUID, number)."""
        self.is_wsl = False
        self.stuck = 0
        """NVML processes that cannot be killed."""
        self.nvml_deaths = 0
        """So many of the next NVML calls find their process dead."""
        self.calls: list[tuple[str, dict[str, object]]] = []
        """Every NVML operation so far, with its arguments."""

    def lose(self, index: int) -> None:
        """The GPU falls off the bus."""
        with self.lock:
            self.gpus[index].failing["handle"] = GPU_IS_LOST

    def hang(self, index: int) -> None:
        """Calls on the GPU do not return any more."""
        with self.lock:
            self.gpus[index].hung = True

    def fail(self, index: int, code: int, fact: str = "handle") -> None:
        """Reading the GPU, or one fact of it, fails with an NVML code."""
        with self.lock:
            self.gpus[index].failing[fact] = code

    def heal(self, index: int) -> None:
        """The GPU has recovered."""
        with self.lock:
            self.gpus[index].hung = False
            self.gpus[index].failing.clear()

    def remove(self, index: int) -> FakeGpu:
        """Take the GPU out of the machine."""
        with self.lock:
            return self.gpus.pop(index)

    def unload_driver(self) -> None:
        """As ``rmmod nvidia``: settings are lost."""
        with self.lock:
            self.version = None
            self._forget_settings()

    def load_driver(self, version: str = DRIVER_VERSION) -> None:
        """As ``modprobe nvidia``, after ``rmmod`` when another one is loaded."""
        with self.lock:
            self._forget_settings()
            self.version = version
            self.loads += 1

    def reload_driver(self) -> None:
        """``rmmod`` and ``modprobe`` of the same version, within one poll interval."""
        self.load_driver(self.version or DRIVER_VERSION)

    def reboot(self) -> None:
        """The kernel is another one; the driver is loaded."""
        with self.lock:
            self.boot_id = str(uuid.uuid4())
            self.loads = 0
            self.load_driver(self.version or DRIVER_VERSION)

    def _forget_settings(self) -> None:
        for gpu in self.gpus:
            gpu.compute_mode = gpu.time_slice = 0
