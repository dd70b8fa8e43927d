"""NVIDIA GPUs on the PCI bus, also those that NVML does not list, and why no driver is loaded. Used by ``sysfs``.

Reads a file of each PCI function: some milliseconds on a large machine, so for scans, not for prepares.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nvdra_node.host.ports import HostRoots, PciGpu

_NVIDIA = b"0x10de"
_DISPLAY_CONTROLLER = b"0x03"
"""PCI base class of GPUs; NVSwitches are bridges, and their audio functions are multimedia devices."""


def find(roots: HostRoots) -> tuple[PciGpu, ...]:
    """See ports.Sysfs.pci_gpus."""
    directory = roots.sys / "bus/pci/devices"
    try:
        functions = sorted(directory.iterdir())
    except OSError:
        return ()
    return tuple(
        PciGpu(
            address=function.name,
            driver=_driver(function),
            is_excluded=_is_excluded(roots, function.name),
        )
        for function in functions
        if _is_gpu(function)
    )


def is_wsl(roots: HostRoots) -> bool:
    """Whether this is a virtual machine of WSL2, where a GPU is a channel to the driver of Windows."""
    return (roots.dev / "dxg").exists()


def why_no_driver(gpus: Sequence[PciGpu], *, is_wsl: bool) -> str:
    """See ports.Sysfs.why_no_driver."""
    if is_wsl:
        return (
            "WSL2 (/dev/dxg exists): the GPUs belong to the Windows driver and have no device nodes here; WSL2 is not"
            " supported, use a Linux host"
        )
    if not gpus:
        return "no NVIDIA GPU on the PCI bus: check the hardware (lspci -d 10de:), or stop this service"
    others = {gpu.driver for gpu in gpus} - {None}
    if None not in {gpu.driver for gpu in gpus}:
        return (
            f"the NVIDIA kernel driver is not loaded, and all {len(gpus)} GPUs are bound to"
            f" {', '.join(sorted(map(str, others)))}: unbind them and load it (modprobe nvidia)"
        )
    return "the NVIDIA kernel driver is not loaded: load it (modprobe nvidia), or install it"


def _is_gpu(function: Path) -> bool:
    if _read(function / "vendor") != _NVIDIA:
        return False
    # A virtual function of SR-IOV (vGPU) belongs to a hypervisor's guest.
    is_virtual = (function / "physfn").is_symlink()
    return not is_virtual and _read(function / "class").startswith(_DISPLAY_CONTROLLER)


def _driver(function: Path) -> str | None:
    try:
        return (function / "driver").readlink().name
    except OSError:
        return None


def _is_excluded(roots: HostRoots, address: str) -> bool:
    """Whether the module parameter NVreg_ExcludedGpus names it."""
    text = _read(roots.proc / "driver/nvidia/gpus" / address / "information")
    rows = (line.partition(b":") for line in text.splitlines())
    return any(
        name.strip() == b"GPU Excluded" and value.strip() == b"Yes" for name, _, value in rows
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except OSError:
        return b""
