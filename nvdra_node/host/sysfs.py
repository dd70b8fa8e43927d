"""Reads /sys, /proc and /dev: implements ports.Sysfs below the roots it is given.

Called by discovery, the rescanner, and the verification before each reply; nothing is cached. Values that a kernel or
driver may not have are None or empty; only a missing PCI function is an error.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from nvdra_core.errors import FileError
from nvdra_node.host import pcigpus
from nvdra_node.host.files import file_error
from nvdra_node.host.ports import HostRoots, NodeStat, PciGpu, PciInfo

_DEV = Path("/dev")
_VERSION = re.compile(r"\b\d+\.\d+(?:\.\d+)*\b")


class HostSysfs:
    """The kernel's files below the roots."""

    def __init__(self, roots: HostRoots) -> None:
        self._roots = roots
        self._driver_version = roots.proc / "driver/nvidia/version"
        self._module = roots.sys / "module/nvidia"

    def pci(self, address: str) -> PciInfo:
        """See ports.Sysfs."""
        device = self._pci_device(address)
        try:
            target = device.readlink()
        except OSError as error:
            raise file_error("read", device, error) from error
        return PciInfo(numa_node=_numa_node(device), pcie_root=_pcie_root(target, address))

    def pci_driver(self, address: str) -> str | None:
        """See ports.Sysfs."""
        try:
            return (self._pci_device(address) / "driver").readlink().name
        except OSError:
            return None

    def pci_gpus(self) -> tuple[PciGpu, ...]:
        """See ports.Sysfs."""
        return pcigpus.find(self._roots)

    def why_no_driver(self) -> str:
        """See ports.Sysfs."""
        return pcigpus.why_no_driver(self.pci_gpus(), is_wsl=pcigpus.is_wsl(self._roots))

    def device_node(self, path: str | Path) -> NodeStat | None:
        """See ports.Sysfs."""
        here = self._dev_path(Path(path))
        try:
            found = here.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise file_error("stat", here, error) from error
        if not stat.S_ISCHR(found.st_mode):
            return None
        return NodeStat(
            major=os.major(found.st_rdev),
            minor=os.minor(found.st_rdev),
            mode=stat.S_IMODE(found.st_mode),
            gid=found.st_gid,
        )

    def drm_nodes(self, address: str) -> tuple[str, ...]:
        """See ports.Sysfs."""
        try:
            nodes = tuple((self._pci_device(address) / "drm").iterdir())
            return tuple(sorted(node.name for node in nodes))
        except OSError:
            return ()

    def driver_version(self) -> str | None:
        """See ports.Sysfs."""
        for line in _text(self._driver_version).splitlines():
            match = _VERSION.search(line) if line.startswith("NVRM") else None
            if match:
                return match[0]
        return _text(self._module / "version").strip() or None

    def driver_instance(self) -> str | None:
        """See ports.Sysfs. sysfs does not reuse inode numbers (kernfs: idr_alloc_cyclic)."""
        version = self.driver_version()
        if version is None:
            return None
        try:
            return f"{version}@{self._module.stat().st_ino}"
        except OSError:
            return version

    def char_major(self, name: str) -> int | None:
        """See ports.Sysfs."""
        for line in _text(self._roots.proc / "devices").splitlines():
            if line.startswith("Block devices"):
                return None
            parts = line.split()
            if len(parts) == 2 and parts[1] == name and parts[0].isdecimal():
                return int(parts[0])
        return None

    def boot_id(self) -> str:
        """See ports.Sysfs. Raises FileError."""
        path = self._roots.proc / "sys/kernel/random/boot_id"
        try:
            boot_id = path.read_text().strip()
        except OSError as error:
            raise file_error("read", path, error) from error
        if not boot_id:
            raise FileError(f"{path} is empty; is /proc mounted?", path=str(path))
        return boot_id

    def _pci_device(self, address: str) -> Path:
        return self._roots.sys / "bus/pci/devices" / address

    def _dev_path(self, path: Path) -> Path:
        dev = self._roots.dev
        if path.is_relative_to(dev) or not path.is_relative_to(_DEV):
            return path
        return dev / path.relative_to(_DEV)


def _text(path: Path) -> str:
    """The file's text, empty if unreadable: the files disappear while a driver is unloaded."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _numa_node(device: Path) -> int | None:
    text = _text(device / "numa_node").strip()
    return int(text) if text.isdecimal() else None


def _pcie_root(target: Path, address: str) -> str | None:
    """First component below ``devices`` in the link of the function, when it is a PCI root."""
    parts = target.parts
    if "devices" not in parts or parts[-1] != address:
        return None
    root = parts[parts.index("devices") + 1]
    return root if root.startswith("pci") else None
