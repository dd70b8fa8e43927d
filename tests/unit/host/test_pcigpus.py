"""GPUs as the PCI bus shows them, and why a host has no NVIDIA driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvdra_node.host.ports import HostRoots, PciGpu
from nvdra_node.host.sysfs import HostSysfs
from tests.fakes.host.host import fake_host
from tests.fakes.host.machine import FakeMachine, fake_gpus
from tests.sim.api import SimRoot

GPU, AUDIO, SWITCH = "0x030200", "0x040300", "0x068000"


@pytest.fixture
def sysfs(tmp_path: Path) -> HostSysfs:
    return HostSysfs(HostRoots(dev=tmp_path / "dev", proc=tmp_path / "proc", sys=tmp_path / "sys"))


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def add(
    top: Path, address: str, pci_class: str = GPU, vendor: str = "0x10de", driver: str = ""
) -> Path:
    function = top / "sys/bus/pci/devices" / address
    put(function / "vendor", f"{vendor}\n")
    put(function / "class", f"{pci_class}\n")
    if driver:
        (function / "driver").symlink_to(f"../../drivers/{driver}")
    return function


def test_gpus_are_distinguished_from_other_nvidia_devices(sysfs: HostSysfs, tmp_path: Path) -> None:
    assert sysfs.pci_gpus() == ()
    add(tmp_path, "0000:3b:00.0", driver="nvidia")
    add(tmp_path, "0000:18:00.0", pci_class="0x030000")
    add(tmp_path, "0000:18:00.1", pci_class=AUDIO)
    add(tmp_path, "0000:07:00.0", pci_class=SWITCH, driver="nvidia-nvswitch")
    add(tmp_path, "0000:00:02.0", vendor="0x8086")
    (add(tmp_path, "0000:3b:00.4") / "physfn").symlink_to("../0000:3b:00.0")
    (tmp_path / "sys/bus/pci/devices/0000:ff:00.0").mkdir()
    put(
        tmp_path / "proc/driver/nvidia/gpus/0000:3b:00.0/information",
        "Model: \t\t H100\nGPU Excluded:\t Yes\n",
    )
    assert sysfs.pci_gpus() == (
        PciGpu(address="0000:18:00.0", driver=None),
        PciGpu(address="0000:3b:00.0", driver="nvidia", is_excluded=True),
    )


def test_wsl_is_named(sysfs: HostSysfs, tmp_path: Path) -> None:
    put(tmp_path / "dev/dxg", "")
    assert sysfs.why_no_driver().startswith("WSL2 (/dev/dxg exists)")


def test_host_without_a_gpu_is_named(sysfs: HostSysfs) -> None:
    assert "no NVIDIA GPU on the PCI bus" in sysfs.why_no_driver()


@pytest.mark.parametrize(
    ("drivers", "said"),
    [
        (("nouveau", "nouveau"), "all 2 GPUs are bound to nouveau"),
        (("vfio-pci", "nouveau"), "all 2 GPUs are bound to nouveau, vfio-pci"),
        (("", "vfio-pci"), "not loaded: load it (modprobe nvidia)"),
        (("", ""), "not loaded: load it (modprobe nvidia)"),
    ],
)
def test_other_drivers_of_the_gpus_are_named(
    sysfs: HostSysfs, tmp_path: Path, drivers: tuple[str, str], said: str
) -> None:
    for slot, driver in enumerate(drivers):
        add(tmp_path, f"0000:0{slot}:00.0", driver=driver)
    assert said in sysfs.why_no_driver()


@pytest.mark.sim
def test_simulated_machine_has_its_gpus_bound(tmp_path: Path) -> None:
    root = SimRoot.create(tmp_path / "host", "h100x8")
    sysfs = HostSysfs(HostRoots(dev=root.path / "dev", proc=root.proc, sys=root.sys))
    expected = [PciGpu(address=gpu.bdf, driver="nvidia") for gpu in root.profile.gpus]
    assert list(sysfs.pci_gpus()) == sorted(expected, key=lambda gpu: gpu.address)


def test_fake_machine_gives_the_same() -> None:
    machine = FakeMachine(fake_gpus(2))
    sysfs = fake_host(machine).sysfs
    assert [gpu.driver for gpu in sysfs.pci_gpus()] == ["nvidia", "nvidia"]
    machine.unload_driver()
    assert "modprobe nvidia" in sysfs.why_no_driver()
    machine.is_wsl = True
    assert "WSL2" in sysfs.why_no_driver()
