"""Protocols of the access to the machine, one per kind of side effect.

Adapters are beside this file, fakes in ``tests.fakes``; both pass the same contract tests. All paths are below
the roots of ``HostRoots``, so that a simulated host is a setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from nvdra_core.runtime.clock import Deadline


class HostRoots(msgspec.Struct, frozen=True, kw_only=True):
    """The machine's trees. On a real host all are the default."""

    driver: Path = Path("/")
    """Root of the NVIDIA driver's files: libraries and programs are searched below it."""
    dev: Path = Path("/dev")
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")


class PciInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of one PCI function from sysfs."""

    numa_node: int | None
    """None: the kernel has -1 or no value."""
    pcie_root: str | None
    """``pci0000:00``; None: not below a PCI root."""


class PciGpu(msgspec.Struct, frozen=True, kw_only=True):
    """An NVIDIA GPU on the PCI bus."""

    address: str
    driver: str | None
    """Kernel driver it is bound to; None: none."""
    is_excluded: bool = False
    """Excluded from NVIDIA's driver by the module parameter NVreg_ExcludedGpus."""


class NodeStat(msgspec.Struct, frozen=True, kw_only=True):
    """A device node in the file system."""

    major: int
    minor: int
    mode: int
    gid: int


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """Output of a command that ended with status 0."""

    stdout: str
    stderr: str


class Nvml(Protocol):
    """NVML with deadlines. Calls run in child processes that are replaced when they hang.

    ``call`` takes an operation of ``nvml_ops`` with JSON arguments and returns JSON. It raises NvmlSlowError (deadline
    passed; the call continues, and its repetition gets the result), NvmlHungError (no answer after a much longer time),
    NvmlError (an error of NVML; code 9: driver not loaded; code -1: the child died), DeadlineError (not started in time
    because of other calls) or HostError (no library).
    """

    hangs: int
    """Hung calls since start."""

    def call(self, operation: str, deadline: Deadline, **arguments: Any) -> Any:
        """Run one operation."""

    def stuck(self) -> int:
        """How many killed children still hang in the kernel. Repeating the call that hung them costs another one."""

    def close(self) -> None:
        """End the children. A later call starts a new one."""


class Sysfs(Protocol):
    """Reads of /sys, /proc and /dev."""

    def pci(self, address: str) -> PciInfo:
        """Facts of the PCI function ``dddd:bb:dd.f``. Raises FileError when it does not exist."""

    def pci_driver(self, address: str) -> str | None:
        """Kernel driver the PCI function is bound to (``nvidia``, ``vfio-pci``); None: none, or no such function."""

    def pci_gpus(self) -> tuple[PciGpu, ...]:
        """All NVIDIA GPUs on the PCI bus, by address. Slow: reads a file of every PCI function."""

    def why_no_driver(self) -> str:
        """Why ``driver_version`` is None, with a remedy. Slow as ``pci_gpus``."""

    def device_node(self, path: str | Path) -> NodeStat | None:
        """Major, minor, mode of a character device; None when there is none.

        ``path`` is either as on a real host (``/dev/nvidia0``) or already below ``HostRoots.dev``.
        """

    def drm_nodes(self, address: str) -> tuple[str, ...]:
        """Names under /sys/bus/pci/devices/<address>/drm (``card1``, ``renderD128``), sorted."""

    def driver_version(self) -> str | None:
        """Version of the loaded kernel driver (/proc/driver/nvidia/version, /sys/module/nvidia); None: not loaded."""

    def driver_instance(self) -> str | None:
        """A text that differs for each load of the kernel driver in this boot, also of the same version; None: not
        loaded. GPU settings and device numbers belong to one instance."""

    def char_major(self, name: str) -> int | None:
        """Major number of a character device class in /proc/devices, None when absent."""

    def boot_id(self) -> str:
        """/proc/sys/kernel/random/boot_id."""


class Commands(Protocol):
    """Runs programs of the host."""

    def run(self, argv: Sequence[str], deadline: Deadline) -> CommandResult:
        """Run to the end. Raises CommandError on any other status than 0, or when the deadline passes (then killed)."""

    def close(self) -> None:
        """Kill running programs. All calls raise CommandError from now on."""


class Files(Protocol):
    """Small files, read and replaced whole. Every method raises FileError (with the path and a remedy)."""

    def read(self, path: Path) -> bytes | None:
        """The content; None when there is no such file."""

    def replace(self, path: Path, data: bytes, *, mode: int = 0o600, durable: bool = False) -> None:
        """Write ``path`` atomically. ``durable``: flushed to the disk before the name appears."""

    def overwrite(self, path: Path, data: bytes, *, mode: int = 0o644) -> None:
        """Write ``data`` at the start of the same inode in one write, for readers that have the file bind-mounted.

        Creates a missing file. A longer file keeps its end: always pass data of the same size.
        """

    def move(self, source: Path, target: Path) -> None:
        """Rename within one file system."""

    def remove(self, path: Path) -> bool:
        """Remove a file; False when there was none."""

    def names(self, directory: Path) -> tuple[str, ...]:
        """Names in a directory, sorted; none when it does not exist."""

    def make_directory(self, path: Path, *, mode: int = 0o755) -> None:
        """Make a directory and its parents; it may exist."""

    def first_missing(self, paths: Iterable[str]) -> str | None:
        """The first of these paths that does not exist; None when all do."""

    def fingerprint(self, path: Path) -> str | None:
        """Changes whenever the file is replaced or written; None when there is none."""
