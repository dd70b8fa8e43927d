"""A fake driver root: libraries, programs, device nodes. `procfs` and `sysfs` add the kernel's side.

In: an empty directory and a profile. Out: the files where a distribution's driver package has them, named after the
profile's driver version, because nvidia-ctk finds them by it. Called by: `api.SimRoot`.
"""

from __future__ import annotations

import platform
from pathlib import Path

from tests.sim import library, smi
from tests.sim.fs import files
from tests.sim.profile import Profile

MAJOR_NVIDIA, MAJOR_UVM, MAJOR_CAPS, MAJOR_IMEX, MAJOR_DRM = 195, 510, 235, 237, 226
FABRIC_IMEX_MINOR = 4323
LIBRARY_DIRECTORY = f"usr/lib/{platform.machine()}-linux-gnu"

# library -> last part of its soname; None: the soname carries the driver version. libnvidia-sandboxutils is left out:
# nvidia-ctk prefers it to NVML, and dies of a placeholder that lacks its functions.
_LIBRARIES: dict[str, str | None] = {
    "libcuda.so": "1",
    "libcudadebugger.so": "1",
    "libnvidia-cfg.so": "1",
    "libnvidia-allocator.so": "1",
    "libnvidia-encode.so": "1",
    "libnvidia-fbc.so": "1",
    "libnvidia-ngx.so": "1",
    "libnvidia-nvvm.so": "4",
    "libnvidia-opencl.so": "1",
    "libnvidia-opticalflow.so": "1",
    "libnvidia-ptxjitcompiler.so": "1",
    "libnvcuvid.so": "1",
    "libnvoptix.so": "1",
    "libEGL_nvidia.so": "0",
    "libGLESv1_CM_nvidia.so": "1",
    "libGLESv2_nvidia.so": "2",
    "libGLX_nvidia.so": "0",
    "libnvidia-eglcore.so": None,
    "libnvidia-glcore.so": None,
    "libnvidia-glsi.so": None,
    "libnvidia-glvkspirv.so": None,
    "libnvidia-gpucomp.so": None,
    "libnvidia-rtcore.so": None,
    "libnvidia-tls.so": None,
}
_PROGRAMS = (
    "nvidia-persistenced",
    "nvidia-debugdump",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-imex",
    "nvidia-imex-ctl",
)
_FIRMWARE = ("gsp_ga10x.bin", "gsp_tu10x.bin")


def install(root: Path, profile: Profile, state: bytes) -> None:
    """Everything that a driver package installs; no kernel module is loaded by it."""
    directory, version = root / LIBRARY_DIRECTORY, profile.driver_version
    directory.mkdir(parents=True, exist_ok=True)
    for name, number in _LIBRARIES.items():
        soname = f"{name}.{number or version}"
        files.place(library.placeholder(soname), directory / f"{name}.{version}")
        if number:
            files.link(directory / soname, f"{name}.{version}")
    files.link(directory / "libcuda.so", "libcuda.so.1")
    install_nvml(root, profile, state)
    for name in _PROGRAMS:
        files.write(root / "usr/bin" / name, "#!/bin/sh\nexit 0\n", 0o755)
    smi.install(root / "usr/bin/nvidia-smi")
    for name in _FIRMWARE:
        files.write(root / "lib/firmware/nvidia" / version / name, "firmware\n")


def install_nvml(root: Path, profile: Profile, state: bytes) -> None:
    """libnvidia-ml with the profile and the shared state, and the state's name under run/."""
    from tests.sim.profile import render

    directory = root / LIBRARY_DIRECTORY
    target = directory / f"libnvidia-ml.so.{profile.driver_version}"
    library.write_driver_library(target, state, render(profile))
    files.link(directory / "libnvidia-ml.so.1", target.name)
    files.link(directory / "libnvidia-ml.so", "libnvidia-ml.so.1")
    state_link = root / "run/nvsim/state"
    state_link.parent.mkdir(parents=True, exist_ok=True)
    state_link.unlink(missing_ok=True)
    state_link.hardlink_to(target)


def make_nodes(root: Path, profile: Profile) -> None:
    """/dev as it is with the kernel modules loaded."""
    dev = root / "dev"
    dev.mkdir(parents=True, exist_ok=True)
    files.node(dev / "nvidiactl", MAJOR_NVIDIA, 255)
    files.node(dev / "nvidia-modeset", MAJOR_NVIDIA, 254)
    files.node(dev / "nvidia-uvm", MAJOR_UVM, 0)
    files.node(dev / "nvidia-uvm-tools", MAJOR_UVM, 1)
    files.node(dev / "nvidia-caps/nvidia-cap1", MAJOR_CAPS, 1, 0o400)
    files.node(dev / "nvidia-caps/nvidia-cap2", MAJOR_CAPS, 2, 0o444)
    if profile.fabric.is_multi_node:
        files.node(
            dev / f"nvidia-caps/nvidia-cap{FABRIC_IMEX_MINOR}", MAJOR_CAPS, FABRIC_IMEX_MINOR, 0o400
        )
    for gpu in profile.gpus:
        files.node(dev / f"nvidia{gpu.minor}", MAJOR_NVIDIA, gpu.minor)
        files.node(dev / f"dri/card{gpu.minor + 1}", MAJOR_DRM, gpu.minor + 1, 0o660)
        files.node(dev / f"dri/renderD{128 + gpu.minor}", MAJOR_DRM, 128 + gpu.minor)
        files.link(dev / f"dri/by-path/pci-{gpu.bdf}-card", f"../card{gpu.minor + 1}")
        files.link(dev / f"dri/by-path/pci-{gpu.bdf}-render", f"../renderD{128 + gpu.minor}")


def remove_nodes(root: Path) -> None:
    """/dev as it is without the kernel modules."""
    for path in (root / "dev").glob("nvidia*"):
        files.remove(path)
    files.remove(root / "dev/dri")
