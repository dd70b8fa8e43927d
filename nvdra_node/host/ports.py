"""What the node may ask of its machine: one small protocol per side effect.

Adapters stand beside this file, fakes in ``fake``; both pass the same contract tests. All paths that adapters touch
are below the roots of ``HostRoots``, so that a simulated host is a setting and not a special case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from nvdra_core.runtime.clock import Deadline


class HostRoots(msgspec.Struct, frozen=True, kw_only=True):
    """Where the machine's trees are. On a real host all are the default."""

    driver: Path = Path("/")
    """Root of the NVIDIA driver's files: libraries and programs are searched below it."""
    dev: Path = Path("/dev")
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")


class PciInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What sysfs says of one PCI function."""

    numa_node: int | None
    """None: the kernel says -1 or nothing."""
    pcie_root: str | None
    """``pci0000:00``; None when the device hangs on no pci root."""


class PciGpu(msgspec.Struct, frozen=True, kw_only=True):
    """An NVIDIA GPU on the PCI bus."""

    address: str
    driver: str | None
    """Kernel driver it is bound to; None: none."""
    is_excluded: bool = False
    """NVIDIA's driver was told to leave it alone (NVreg_ExcludedGpus)."""


class NodeStat(msgspec.Struct, frozen=True, kw_only=True):
    """A device node as it is in the file system."""

    major: int
    minor: int
    mode: int
    gid: int


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """Output of a command that ended with status 0."""

    stdout: str
    stderr: str


class Nvml(Protocol):
    """NVML behind deadlines. Each call runs in a child process that is replaced when it hangs.

    A call whose deadline passes raises NvmlSlowError and goes on: repeated, it gets the result. A call that has not
    returned after a much longer time, whoever waits, raises NvmlHungError.

    ``call`` takes the name of one operation of ``nvml_ops`` and JSON arguments and returns JSON; it raises NvmlError
    (the library said no; code 9: driver not loaded; code -1: the child died), NvmlHungError (no answer in time),
    DeadlineError (calls of others took all the time, this one was not begun) or HostError (no library).
    """

    hangs: int
    """Calls given up since start."""

    def call(self, operation: str, deadline: Deadline, **arguments: Any) -> Any:
        """One operation, whole or not at all."""

    def stuck(self) -> int:
        """How many children were given up and are still held by the kernel. Asking what hung them costs one more."""

    def close(self) -> None:
        """End the child. A later call starts another one."""


class Sysfs(Protocol):
    """Reads of /sys, /proc and /dev."""

    def pci(self, address: str) -> PciInfo:
        """Facts of the PCI function ``dddd:bb:dd.f``. Raises FileError when it does not exist."""

    def pci_driver(self, address: str) -> str | None:
        """Kernel driver the PCI function is bound to (``nvidia``, ``vfio-pci``); None: none, or no such function."""

    def pci_gpus(self) -> tuple[PciGpu, ...]:
        """All NVIDIA GPUs on the PCI bus, by address. Slow: reads a file of every PCI function."""

    def why_no_driver(self) -> str:
        """Why ``driver_version`` is None, and what to do. Slow as ``pci_gpus``."""

    def device_node(self, path: str | Path) -> NodeStat | None:
        """Major, minor, mode of a character device; None when there is none.

        ``path`` is either as on a real host (``/dev/nvidia0``) or already below ``HostRoots.dev``.
        """

    def drm_nodes(self, address: str) -> tuple[str, ...]:
        """Names under /sys/bus/pci/devices/<address>/drm (``card1``, ``renderD128``), sorted."""

    def driver_version(self) -> str | None:
        """Version of the loaded kernel driver (/proc/driver/nvidia/version, /sys/module/nvidia); None: not loaded."""

    def driver_instance(self) -> str | None:
        """Another text whenever the kernel driver was loaded again in this boot, also with the same version; None: not
        loaded. All settings, and all numbers of devices, are of one instance."""

    def char_major(self, name: str) -> int | None:
        """Major number of a character device class in /proc/devices, None when absent."""

    def boot_id(self) -> str:
        """/proc/sys/kernel/random/boot_id."""


class Commands(Protocol):
    """The one door to other programs."""

    def run(self, argv: Sequence[str], deadline: Deadline) -> CommandResult:
        """Run to the end. Raises CommandError on any other status than 0, or when the deadline passes (then killed)."""

    def close(self) -> None:
        """Kill what runs: the service ends. All calls raise CommandError from now on."""


class Files(Protocol):
    """Small files, read and replaced whole. Every method raises FileError (with the path and what to do)."""

    def read(self, path: Path) -> bytes | None:
        """The content; None when there is no such file."""

    def replace(self, path: Path, data: bytes, *, mode: int = 0o600, durable: bool = False) -> None:
        """Write ``path`` atomically. ``durable``: flushed to the disk before the name appears."""

    def overwrite(self, path: Path, data: bytes, *, mode: int = 0o644) -> None:
        """Put ``data`` at the beginning of the same file with one write, for a reader that has the file itself bound
        somewhere; made when there is none. A longer file keeps its end: give data of one size always."""

    def move(self, source: Path, target: Path) -> None:
        """Rename within one file system."""

    def remove(self, path: Path) -> bool:
        """Remove a file; False when there was none."""

    def names(self, directory: Path) -> tuple[str, ...]:
        """Names in a directory, sorted; none when it does not exist."""

    def make_directory(self, path: Path, *, mode: int = 0o755) -> None:
        """Make a directory and its parents; fine when it exists."""

    def first_missing(self, paths: Iterable[str]) -> str | None:
        """The first of these paths that does not exist; None when all do."""

    def fingerprint(self, path: Path) -> str | None:
        """Changes whenever the file is replaced or written; None when there is none."""
