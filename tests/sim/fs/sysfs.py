"""The fake /sys of a driver root: PCI functions under their roots, drivers, IOMMU groups, modules.

`boot` makes what the bus shows without any driver; `load` and `unload` bind and free the GPUs, as modprobe would.
"""

from __future__ import annotations

from pathlib import Path

from tests.sim.fs import files
from tests.sim.profile import Gpu, Profile

_MODULES = ("nvidia", "nvidia_uvm", "nvidia_modeset", "nvidia_drm")
_BAR_64_PREFETCH, _BAR_32 = 0x14220C, 0x40200


def device_directory(root: Path, gpu: Gpu) -> Path:
    """Where the kernel has the GPU: under its PCI root and bridges."""
    return root.joinpath("sys/devices", *gpu.path, gpu.bdf)


def boot(root: Path, profile: Profile) -> None:
    """PCI functions and IOMMU groups; vfio-pci is there, and no GPU has a driver."""
    for gpu in profile.gpus:
        directory = device_directory(root, gpu)
        for name, text in _attributes(gpu).items():
            files.write(directory / name, text)
        (directory / "config").write_bytes(_config(gpu))
        files.relative_link(root / "sys/bus/pci/devices" / gpu.bdf, directory)
        group = root / "sys/kernel/iommu_groups" / str(gpu.iommu_group)
        files.relative_link(group / "devices" / gpu.bdf, directory)
        files.write(group / "type", "DMA-FQ\n")
        files.relative_link(directory / "iommu_group", group)
    _make_driver(root, "vfio-pci")
    files.write(root / "sys/module/vfio_pci/refcnt", "0\n")
    (root / "sys/module/firmware_class/parameters").mkdir(parents=True, exist_ok=True)
    files.write(root / "sys/module/firmware_class/parameters/path", "\n")


def load(root: Path, profile: Profile) -> None:
    """The nvidia modules are there and drive every GPU."""
    for name in _MODULES:
        files.write(root / "sys/module" / name / "version", f"{profile.driver_version}\n")
        files.write(root / "sys/module" / name / "refcnt", "1\n")
        files.write(root / "sys/module" / name / "initstate", "live\n")
    _make_driver(root, "nvidia")
    for gpu in profile.gpus:
        bind(root, gpu, "nvidia")


def unload(root: Path, profile: Profile) -> None:
    """No module, no driver of that name, no GPU bound to it."""
    for gpu in profile.gpus:
        if bound_driver(root, gpu) == "nvidia":
            unbind(root, gpu)
    files.remove(root / "sys/bus/pci/drivers/nvidia")
    for name in _MODULES:
        directory, before = root / "sys/module" / name, root / "sys/.unloaded" / name
        files.remove(before)
        if directory.exists():
            # The kernel gives no directory of /sys the number of another; other file systems do, once it is gone.
            before.parent.mkdir(exist_ok=True)
            directory.rename(before)


def bound_driver(root: Path, gpu: Gpu) -> str | None:
    """Name of the driver that has this GPU."""
    driver = device_directory(root, gpu) / "driver"
    return driver.readlink().name if driver.is_symlink() else None


def bind(root: Path, gpu: Gpu, driver: str) -> None:
    """What a write to the driver's `bind` does."""
    directory = device_directory(root, gpu)
    files.relative_link(directory / "driver", root / "sys/bus/pci/drivers" / driver)
    files.relative_link(root / "sys/bus/pci/drivers" / driver / gpu.bdf, directory)
    if driver == "nvidia":
        for node in (f"card{gpu.minor + 1}", f"renderD{128 + gpu.minor}"):
            files.write(directory / "drm" / node / "dev", f"226:{node.lstrip('cardeni_D') or 0}\n")
    if driver.startswith("vfio"):
        files.write(directory / f"vfio-dev/vfio{gpu.index}/dev", f"511:{gpu.index}\n")


def unbind(root: Path, gpu: Gpu) -> None:
    """What a write to the driver's `unbind` does."""
    driver = bound_driver(root, gpu)
    if driver:
        files.remove(root / "sys/bus/pci/drivers" / driver / gpu.bdf)
    for name in ("driver", "drm", "vfio-dev"):
        files.remove(device_directory(root, gpu) / name)


def _make_driver(root: Path, name: str) -> None:
    directory = root / "sys/bus/pci/drivers" / name
    for attribute in ("bind", "unbind", "new_id", "remove_id"):
        files.write(directory / attribute, "", 0o200)
    files.relative_link(directory / "module", root / "sys/module" / name.replace("-", "_"))


def _attributes(gpu: Gpu) -> dict[str, str]:
    values = gpu.model.values
    subsystem = int(values["pci_subsystem"])
    ids = (gpu.model.vendor_id, gpu.model.device_id, subsystem & 0xFFFF, subsystem >> 16)
    return {
        "vendor": f"0x{ids[0]:04x}\n",
        "device": f"0x{ids[1]:04x}\n",
        "subsystem_vendor": f"0x{ids[2]:04x}\n",
        "subsystem_device": f"0x{ids[3]:04x}\n",
        "class": "0x030200\n",
        "revision": "0xa1\n",
        "numa_node": f"{gpu.numa_node}\n",
        "local_cpulist": f"{gpu.cpus}\n",
        "driver_override": "(null)\n",
        "enable": "1\n",
        "modalias": "pci:v{:08X}d{:08X}sv{:08X}sd{:08X}bc03sc02i00\n".format(*ids),
        "resource": _resource(gpu),
        "current_link_speed": f"{int(values['pcie_speed_mbps']) / 1000:.1f} GT/s PCIe\n",
        "current_link_width": f"{values['pcie_width']}\n",
        "reset_method": "flr bus\n",
        "sriov_totalvfs": f"{gpu.model.sriov_vfs}\n",
        "sriov_numvfs": "0\n",
        "uevent": f"PCI_CLASS=30200\nPCI_ID={ids[0]:04X}:{ids[1]:04X}\nPCI_SLOT_NAME={gpu.bdf}\n",
    }


def _resource(gpu: Gpu) -> str:
    """13 lines `start end flags`; 64-bit regions take two places."""
    base = (gpu.index + 1) << 42
    small, *large = gpu.model.bars_mb
    lines = [f"0x{base:016x} 0x{base + (small << 20) - 1:016x} 0x{_BAR_32:016x}"]
    empty = f"0x{0:016x} 0x{0:016x} 0x{0:016x}"
    for number, size in enumerate(large, start=1):
        start = base + (number << 40)
        lines += [
            f"0x{start:016x} 0x{start + (size << 20) - 1:016x} 0x{_BAR_64_PREFETCH:016x}",
            empty,
        ]
    lines += [empty] * (13 - len(lines))
    return "\n".join(lines) + "\n"


def _config(gpu: Gpu) -> bytes:
    """The first 64 bytes of the configuration space: ids and class."""
    space = bytearray(64)
    space[0:4] = gpu.model.vendor_id.to_bytes(2, "little") + gpu.model.device_id.to_bytes(
        2, "little"
    )
    space[8:12] = bytes((0xA1, 0x00, 0x02, 0x03))
    space[44:48] = int(gpu.model.values["pci_subsystem"]).to_bytes(4, "little")
    return bytes(space)
