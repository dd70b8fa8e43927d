"""FakeSysfs: /sys, /proc and /dev of a FakeMachine."""

from __future__ import annotations

from pathlib import Path

from nvdra_core.errors import FileError
from nvdra_node.host.pcigpus import why_no_driver
from nvdra_node.host.ports import NodeStat, PciGpu, PciInfo
from tests.fakes.host.machine import MAJOR_NVIDIA, FakeGpu, FakeMachine


class FakeSysfs:
    """See ports.Sysfs."""

    def __init__(self, machine: FakeMachine) -> None:
        self._machine = machine

    def pci(self, address: str) -> PciInfo:
        """See ports.Sysfs."""
        gpu = self._at(address)
        if gpu is None:
            path = f"/sys/bus/pci/devices/{address}"
            raise FileError(f"cannot read {path}: No such file or directory", path=path)
        return PciInfo(numa_node=gpu.numa_node, pcie_root=gpu.pcie_root)

    def pci_driver(self, address: str) -> str | None:
        """See ports.Sysfs."""
        gpu = self._at(address)
        if gpu is None or (gpu.pci_driver == "nvidia" and self._machine.version is None):
            return None
        return gpu.pci_driver

    def pci_gpus(self) -> tuple[PciGpu, ...]:
        """See ports.Sysfs."""
        with self._machine.lock:
            return tuple(
                PciGpu(
                    address=gpu.address,
                    driver=self.pci_driver(gpu.address),
                    is_excluded=gpu.is_excluded,
                )
                for gpu in self._machine.gpus
            )

    def why_no_driver(self) -> str:
        """See ports.Sysfs."""
        return why_no_driver(self.pci_gpus(), is_wsl=self._machine.is_wsl)

    def device_node(self, path: str | Path) -> NodeStat | None:
        """See ports.Sysfs."""
        with self._machine.lock:
            if str(path) in self._machine.unreadable_nodes:
                raise FileError(f"cannot stat {path}: Permission denied", path=str(path))
            if str(path) in self._machine.nodes:
                return self._machine.nodes[str(path)]
            if self._machine.version is None:
                return None
            for gpu in self._machine.gpus:
                if str(path) == f"/dev/nvidia{gpu.minor}" and gpu.pci_driver == "nvidia":
                    return NodeStat(major=MAJOR_NVIDIA, minor=gpu.minor, mode=0o666, gid=0)
        return None

    def drm_nodes(self, address: str) -> tuple[str, ...]:
        """See ports.Sysfs."""
        gpu = self._at(address)
        if gpu is None or self.pci_driver(address) != "nvidia":
            return ()
        if gpu.drm is not None:
            return gpu.drm
        return (f"card{gpu.minor + 1}", f"renderD{128 + gpu.minor}")

    def driver_version(self) -> str | None:
        """See ports.Sysfs."""
        with self._machine.lock:
            return self._machine.version

    def driver_instance(self) -> str | None:
        """See ports.Sysfs."""
        with self._machine.lock:
            version = self._machine.version
            return None if version is None else f"{version}@{self._machine.loads}"

    def char_major(self, name: str) -> int | None:
        """See ports.Sysfs."""
        with self._machine.lock:
            return None if self._machine.version is None else self._machine.char_majors.get(name)

    def boot_id(self) -> str:
        """See ports.Sysfs."""
        with self._machine.lock:
            return self._machine.boot_id

    def _at(self, address: str) -> FakeGpu | None:
        with self._machine.lock:
            return next((gpu for gpu in self._machine.gpus if gpu.address == address), None)
