"""The fake /proc of a driver root: driver/nvidia, capabilities, devices."""

from __future__ import annotations

import platform
import uuid
from pathlib import Path

from tests.sim.fs import files, tree
from tests.sim.profile import Profile

_CHARACTER = [(1, "mem"), (5, "/dev/tty"), (10, "misc"), (136, "pts"), (226, "drm")]
_BLOCK = [(7, "loop"), (8, "sd"), (259, "blkext")]
MIG_GIS, MIG_CIS = 15, 8


def boot(root: Path) -> None:
    """A new boot id, as the kernel makes one at each start."""
    files.write(root / "proc/sys/kernel/random/boot_id", f"{uuid.uuid4()}\n")


def load(root: Path, profile: Profile) -> None:
    """What the loaded modules show."""
    driver = root / "proc/driver/nvidia"
    files.write(
        driver / "version",
        f"NVRM version: NVIDIA UNIX Open Kernel Module for {platform.machine()}  {profile.driver_version}  "
        "Release Build  (simulated)\nGCC version:  gcc version 12.2.0\n",
        0o444,
    )
    files.write(driver / "params", _params(profile), 0o444)
    for gpu in profile.gpus:
        files.write(driver / f"gpus/{gpu.bdf}/information", _information(profile, gpu.index), 0o444)
        (driver / f"capabilities/gpu{gpu.minor}/mig").mkdir(parents=True, exist_ok=True)
    files.write(driver / "capabilities/mig/config", _capability(1, 256), 0o444)
    files.write(driver / "capabilities/mig/monitor", _capability(2, 292), 0o444)
    if profile.fabric.is_multi_node:
        files.write(
            driver / "capabilities/fabric-imex-mgmt",
            _capability(tree.FABRIC_IMEX_MINOR, 256),
            0o444,
        )
    caps = root / "proc/driver/nvidia-caps"
    files.write(caps / "mig-minors", _mig_minors(profile), 0o444)
    files.write(caps / "sys-minors", f"fabric-imex-mgmt {tree.FABRIC_IMEX_MINOR}\n", 0o444)
    _write_devices(root, profile, loaded=True)


def unload(root: Path, profile: Profile) -> None:
    """What is left without the modules."""
    for name in ("nvidia", "nvidia-caps"):
        files.remove(root / "proc/driver" / name)
    _write_devices(root, profile, loaded=False)


def _capability(minor: int, mode: int) -> str:
    return f"DeviceFileMinor: {minor}\nDeviceFileMode: {mode}\nDeviceFileModify: 1\n"


def _params(profile: Profile) -> str:
    return (
        "ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 1\nDeviceFileUID: 0\nDeviceFileGID: 0\nDeviceFileMode: 438\n"
        "EnableMSI: 1\nEnableStreamMemOPs: 0\nEnableGpuFirmware: 18\nOpenRmEnableUnsupportedGpus: 1\n"
        f"ImexChannelCount: {profile.imex_channels or 2048}\nCreateImexChannel0: 0\nGrdmaPciTopoCheckOverride: 0\n"
        'RegistryDwords: ""\nRegistryDwordsPerDevice: ""\nRmMsg: ""\nGpuBlacklist: ""\nTemporaryFilePath: ""\nExcludedGpus: ""\n'
    )


def _information(profile: Profile, index: int) -> str:
    gpu = profile.gpus[index]
    rows = [
        ("Model", gpu.model.name),
        ("IRQ", str(64 + index)),
        ("GPU UUID", gpu.uuid),
        ("Video BIOS", str(gpu.model.values["vbios"])),
        ("Bus Type", "PCIe"),
        ("DMA Size", "52 bits"),
        ("DMA Mask", "0xfffffffffffff"),
        ("Bus Location", gpu.bdf),
        ("Device Minor", str(gpu.minor)),
        ("GPU Firmware", profile.driver_version),
        ("GPU Excluded", "No"),
    ]
    return "".join(f"{name}: \t {value}\n" for name, value in rows)


def _mig_minors(profile: Profile) -> str:
    """`config 1`, `monitor 2`, then gpuG/giI/access and gpuG/giI/ciC/access, numbered through."""
    lines, minor = ["config 1", "monitor 2"], 3
    for gpu in sorted(profile.gpus, key=lambda gpu: gpu.minor):
        minor = 3 + gpu.minor * MIG_GIS * (MIG_CIS + 1)
        for gi in range(MIG_GIS):
            names = [
                f"gpu{gpu.minor}/gi{gi}/access",
                *(f"gpu{gpu.minor}/gi{gi}/ci{ci}/access" for ci in range(MIG_CIS)),
            ]
            lines += [f"{name} {minor + i}" for i, name in enumerate(names)]
            minor += len(names)
    return "\n".join(lines) + "\n"


def _write_devices(root: Path, profile: Profile, *, loaded: bool) -> None:
    character = list(_CHARACTER)
    if loaded:
        character += [
            (tree.MAJOR_NVIDIA, name) for name in ("nvidia", "nvidia-modeset", "nvidiactl")
        ]
        character += [
            (234, "nvidia-nvlink"),
            (tree.MAJOR_CAPS, "nvidia-caps"),
            (tree.MAJOR_UVM, "nvidia-uvm"),
        ]
        if profile.imex_channels:
            character.append((tree.MAJOR_IMEX, "nvidia-caps-imex-channels"))
    lines = ["Character devices:", *(f"{major:3d} {name}" for major, name in sorted(character))]
    lines += ["", "Block devices:", *(f"{major:3d} {name}" for major, name in _BLOCK)]
    files.write(root / "proc/devices", "\n".join(lines) + "\n")
