"""The host tree: driver absent and loaded, PCI as the kernel shows it, many roots side by side."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pynvml
import pytest

from tests.lib.required import not_run
from tests.lib.waits import wait_equal
from tests.sim import __main__ as command_line
from tests.sim import profile
from tests.sim.api import SimRoot
from tests.sim.client import Client, session
from tests.sim.fs import sysfs


@pytest.mark.parametrize("name", profile.names())
def test_pci_functions_lead_to_their_root(tmp_path: Path, name: str) -> None:
    root = SimRoot.create(tmp_path / "host", name)
    for gpu in root.profile.gpus:
        link = root.sys / "bus/pci/devices" / gpu.bdf
        target = link.resolve()
        assert target.relative_to(root.sys / "devices").parts == (*gpu.path, gpu.bdf)
        assert not os.readlink(link).startswith("/")
        assert (target / "vendor").read_text() == "0x10de\n"
        assert (target / "class").read_text() == "0x030200\n"
        assert (target / "numa_node").read_text() == f"{gpu.numa_node}\n"
        assert (target / "driver").resolve() == root.sys / "bus/pci/drivers/nvidia"
        assert (target / "iommu_group").resolve().name == str(gpu.iommu_group)
        assert (target / "iommu_group/devices" / gpu.bdf).resolve() == target
        assert len((target / "resource").read_text().splitlines()) == 13


def test_nodes_have_the_drivers_numbers(h100: SimRoot) -> None:
    if os.geteuid() != 0:
        not_run("device nodes need root")
    for name, minor in (
        ("nvidia0", 0),
        ("nvidia7", 7),
        ("nvidiactl", 255),
        ("nvidia-modeset", 254),
    ):
        info = (h100.path / "dev" / name).stat()
        assert stat.S_ISCHR(info.st_mode)
        assert (os.major(info.st_rdev), os.minor(info.st_rdev)) == (195, minor)
    devices = (h100.proc / "devices").read_text()
    assert "195 nvidia\n" in devices
    caps = os.major((h100.path / "dev/nvidia-caps/nvidia-cap1").stat().st_rdev)
    assert f"{caps} nvidia-caps\n" in devices


def test_only_a_rack_has_imex_channels_and_their_capability(h100: SimRoot, tmp_path: Path) -> None:
    rack = SimRoot.create(tmp_path / "tray", "gb200-nvl4")
    assert "nvidia-caps-imex-channels" in (rack.proc / "devices").read_text()
    assert "ImexChannelCount: 2048\n" in (rack.proc / "driver/nvidia/params").read_text()
    assert (rack.proc / "driver/nvidia/capabilities/fabric-imex-mgmt").exists()
    assert not (h100.proc / "driver/nvidia/capabilities/fabric-imex-mgmt").exists()


def test_without_the_driver_nothing_of_it_is_there(h100: SimRoot) -> None:
    with Client(h100.nvml_library) as client:
        h100.unload_driver()
        assert client.ask("pynvml.nvmlDeviceGetCount()") == "error 9"
    with pytest.raises(pynvml.NVMLError_DriverNotLoaded), session(h100.nvml_library):
        pass
    assert not list((h100.path / "dev").glob("nvidia*"))
    assert not (h100.proc / "driver/nvidia").exists()
    assert "nvidia" not in (h100.proc / "devices").read_text()
    assert not (h100.sys / "module/nvidia").exists()
    gpu = h100.profile.gpus[0]
    assert sysfs.bound_driver(h100.path, gpu) is None
    assert (h100.sys / "bus/pci/devices" / gpu.bdf).exists()

    h100.load_driver()
    with session(h100.nvml_library) as nvml:
        assert nvml.nvmlDeviceGetCount() == 8


def test_an_uninstalled_driver_has_no_library(h100: SimRoot) -> None:
    h100.unload_driver(uninstall=True)
    with pytest.raises(OSError, match="libnvidia-ml"), session(h100.nvml_library):
        pass
    h100.load_driver(version="590.44.01")
    with session(h100.nvml_library) as nvml:
        assert nvml.nvmlSystemGetDriverVersion() == "590.44.01"
    assert (h100.sys / "module/nvidia/version").read_text() == "590.44.01\n"
    assert not list(h100.nvml_library.parent.glob("*580.65.06"))


def test_a_gpu_moves_to_vfio_and_back(h100: SimRoot) -> None:
    gpu = h100.profile.gpus[4]
    h100.bind(4, "vfio-pci")
    assert sysfs.bound_driver(h100.path, gpu) == "vfio-pci"
    assert (h100.path / f"dev/vfio/{gpu.iommu_group}").exists()
    with session(h100.nvml_library) as nvml:
        assert nvml.nvmlDeviceGetCount() == 7
    h100.bind(4, "nvidia")
    with session(h100.nvml_library) as nvml:
        assert nvml.nvmlDeviceGetCount() == 8


def wait_for_driver(root: SimRoot, gpu: int, driver: str | None) -> None:
    wait_equal(
        f"driver of GPU {gpu}",
        lambda: sysfs.bound_driver(root.path, root.profile.gpus[gpu]),
        driver,
    )


def test_sysfs_bind_and_unbind_move_a_gpu(h100: SimRoot) -> None:
    bdf = h100.profile.gpus[1].bdf
    device = h100.sys / "bus/pci/devices" / bdf
    with h100.pci_kernel():
        (device / "driver_override").write_text("vfio-pci\n")
        (device / "driver/unbind").write_text(f"{bdf}\n")
        wait_for_driver(h100, 1, None)
        (h100.sys / "bus/pci/drivers/nvidia/bind").write_text(
            bdf
        )  # refused: the override names another driver
        (h100.sys / "bus/pci/drivers/vfio-pci/bind").write_text(bdf)
        wait_for_driver(h100, 1, "vfio-pci")
        with session(h100.nvml_library) as nvml:
            assert nvml.nvmlDeviceGetCount() == 7
        (device / "driver/unbind").write_text(bdf)
        wait_for_driver(h100, 1, None)
        (device / "driver_override").write_text("\n")
        (h100.sys / "bus/pci/drivers_probe").write_text(bdf)
        wait_for_driver(h100, 1, "nvidia")
    assert (h100.path / "dev/nvidia1").exists()


def test_roots_do_not_share_anything_that_changes(tmp_path: Path) -> None:
    one = SimRoot.create(tmp_path / "one", "h100x8", node=1)
    two = SimRoot.create(tmp_path / "two", "h100x8", node=2)
    assert not set(one.profile.uuids) & set(two.profile.uuids)
    one.lose(0)
    with session(two.nvml_library) as nvml:
        assert nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(0)) == two.profile.uuids[0]


def test_a_root_opened_again_is_the_same(h100: SimRoot) -> None:
    assert SimRoot.open(h100.path).profile == h100.profile


def test_seed_determines_gpu_identities() -> None:
    assert profile.load("l4x2", seed=1) == profile.load("l4x2", seed=1)
    assert set(profile.load("l4x2", seed=1).uuids).isdisjoint(profile.load("l4x2", seed=2).uuids)


def test_profile_is_changed_without_own_file(tmp_path: Path) -> None:
    change = {"fabric": {"clique_id": 7}, "driver": {"version": "595.10.01"}}
    root = SimRoot.create(tmp_path / "host", "gb200-nvl4", change=change)
    assert root.profile.fabric.clique_id == 7
    assert root.profile.fabric.is_multi_node
    with session(root.nvml_library) as nvml:
        assert nvml.nvmlSystemGetDriverVersion() == "595.10.01"


def test_the_command_line_does_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "host")

    def run(*arguments: str) -> str:
        assert command_line.main(list(arguments)) == 0
        return capsys.readouterr().out

    run("create", path, "--profile", "gb200-nvl4", "--node", "3", "--set", "fabric.clique_id=9")
    root = SimRoot.open(path)
    assert root.profile.fabric.clique_id == 9
    with Client(root.nvml_library) as client:
        slot = run("fault", path, "nvmlDeviceGetCount_v2", "--code", "17").strip()
        assert client.ask("pynvml.nvmlDeviceGetCount()") == "error 17"
        run("clear", path, "--slot", slot)
        assert client.ask("pynvml.nvmlDeviceGetCount()") == "4"
        run("lose", path, "2")
        assert client.ask("pynvml.nvmlDeviceGetHandleByIndex(2)") == "error 15"
    assert root.profile.uuids[0] in run("show", path)
    run("destroy", path)
    assert not Path(path).exists()
