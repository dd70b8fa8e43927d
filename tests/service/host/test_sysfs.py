"""The same rules on the fake sysfs and on the real adapter over a simulated machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nvdra_core.errors import FileError
from nvdra_node.host.ports import HostRoots, NodeStat, PciInfo, Sysfs
from nvdra_node.host.sysfs import HostSysfs
from tests.fakes.host.machine import FakeMachine, fake_gpus
from tests.fakes.host.sysfs import FakeSysfs
from tests.sim.api import SimRoot


@dataclass(slots=True, kw_only=True)
class Bench:
    """Sysfs under test, the address of GPU 0, and what can be done to the machine."""

    sysfs: Sysfs
    address: str
    expected: PciInfo
    unload: Callable[[], None]
    load: Callable[[], None]


@pytest.fixture(params=["fake", pytest.param("sim", marks=pytest.mark.sim)])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    if request.param == "fake":
        machine = FakeMachine(fake_gpus(8))
        gpu = machine.gpus[0]
        return Bench(
            sysfs=FakeSysfs(machine),
            address=gpu.address,
            expected=PciInfo(numa_node=gpu.numa_node, pcie_root=gpu.pcie_root),
            unload=machine.unload_driver,
            load=machine.load_driver,
        )
    root = SimRoot.create(tmp_path / "host", "h100x8")
    truth = root.profile.gpus[0]
    roots = HostRoots(driver=root.path, dev=root.path / "dev", proc=root.proc, sys=root.sys)
    return Bench(
        sysfs=HostSysfs(roots),
        address=truth.bdf,
        expected=PciInfo(numa_node=truth.numa_node, pcie_root=truth.path[0]),
        unload=root.unload_driver,
        load=root.load_driver,
    )


def test_pci_returns_numa_node_and_root(bench: Bench) -> None:
    assert bench.sysfs.pci(bench.address) == bench.expected


def test_missing_pci_function_is_an_error_with_its_path(bench: Bench) -> None:
    with pytest.raises(FileError) as caught:
        bench.sysfs.pci("0000:ff:1f.7")
    assert "0000:ff:1f.7" in caught.value.path
    assert bench.sysfs.pci_driver("0000:ff:1f.7") is None
    assert bench.sysfs.drm_nodes("0000:ff:1f.7") == ()


def test_loaded_driver_is_visible_in_sysfs_and_proc(bench: Bench) -> None:
    assert bench.sysfs.driver_version() == "580.65.06"
    assert bench.sysfs.pci_driver(bench.address) == "nvidia"
    assert bench.sysfs.drm_nodes(bench.address) == ("card1", "renderD128")
    assert bench.sysfs.char_major("nvidia-caps") == 235
    assert bench.sysfs.device_node(Path("/dev/nvidia0")) == NodeStat(
        major=195, minor=0, mode=0o666, gid=0
    )


def test_pci_function_exists_without_a_driver(bench: Bench) -> None:
    bench.unload()
    assert bench.sysfs.driver_version() is None
    assert bench.sysfs.pci_driver(bench.address) is None
    assert bench.sysfs.drm_nodes(bench.address) == ()
    assert bench.sysfs.char_major("nvidia-caps") is None
    assert bench.sysfs.device_node(Path("/dev/nvidia0")) is None
    assert bench.sysfs.pci(bench.address) == bench.expected
    bench.load()
    assert bench.sysfs.driver_version() == "580.65.06"


def test_driver_instance_changes_with_each_load_and_only_then(bench: Bench) -> None:
    seen = [bench.sysfs.driver_instance()]
    assert bench.sysfs.driver_instance() == seen[0]
    for _ in range(3):
        bench.unload()
        assert bench.sysfs.driver_instance() is None
        bench.load()
        seen.append(bench.sysfs.driver_instance())
        assert seen[-1] not in (None, seen[-2])


def test_missing_entry_is_none(bench: Bench) -> None:
    assert bench.sysfs.char_major("no-such-class") is None
    assert bench.sysfs.device_node(Path("/dev/nvidia77")) is None
