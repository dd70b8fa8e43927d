"""Odd content of /sys and /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvdra_core.errors import FileError
from nvdra_node.host.ports import HostRoots
from nvdra_node.host.sysfs import HostSysfs


@pytest.fixture
def sysfs(tmp_path: Path) -> HostSysfs:
    return HostSysfs(HostRoots(dev=tmp_path / "dev", proc=tmp_path / "proc", sys=tmp_path / "sys"))


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def a_function(tmp_path: Path, address: str, target: str, numa: str | None) -> None:
    directory = tmp_path / "sys/devices" / target
    directory.mkdir(parents=True)
    if numa is not None:
        put(directory / "numa_node", numa)
    link = tmp_path / "sys/bus/pci/devices" / address
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(f"../../../devices/{target}")


@pytest.mark.parametrize(
    ("target", "root"),
    [
        ("pci0000:15/0000:15:01.0/0000:18:00.0", "pci0000:15"),
        ("platform/10000000.pcie/pci0009:00/0000:18:00.0", None),
        ("pci0000:15/0000:15:01.0", None),
    ],
)
def test_pcie_root_is_the_first_directory_if_it_is_a_pci_root(
    sysfs: HostSysfs, tmp_path: Path, target: str, root: str | None
) -> None:
    a_function(tmp_path, "0000:18:00.0", target, "1\n")
    assert sysfs.pci("0000:18:00.0").pcie_root == root


@pytest.mark.parametrize(("text", "node"), [("0\n", 0), ("3\n", 3), ("-1\n", None), (None, None)])
def test_no_numa_node_is_none(
    sysfs: HostSysfs, tmp_path: Path, text: str | None, node: int | None
) -> None:
    a_function(tmp_path, "0000:18:00.0", "pci0000:15/0000:18:00.0", text)
    assert sysfs.pci("0000:18:00.0").numa_node == node


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024",
            "535.183.01",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.65.06  Release Build  (dvs)  Sun Jul 27",
            "580.65.06",
        ),
    ],
)
def test_driver_version_of_both_kernel_modules(
    sysfs: HostSysfs, tmp_path: Path, line: str, version: str
) -> None:
    put(tmp_path / "proc/driver/nvidia/version", line + "\nGCC version:  gcc version 12.3.0\n")
    assert sysfs.driver_version() == version


def test_driver_version_falls_back_to_the_module(sysfs: HostSysfs, tmp_path: Path) -> None:
    assert sysfs.driver_version() is None
    put(tmp_path / "sys/module/nvidia/version", "580.65.06\n")
    assert sysfs.driver_version() == "580.65.06"


def test_char_major_is_not_taken_from_the_block_devices(sysfs: HostSysfs, tmp_path: Path) -> None:
    put(tmp_path / "proc/devices", "Character devices:\n195 nvidia\n\nBlock devices:\n259 blkext\n")
    assert sysfs.char_major("nvidia") == 195
    assert sysfs.char_major("blkext") is None


def test_missing_boot_id_is_an_error(sysfs: HostSysfs, tmp_path: Path) -> None:
    with pytest.raises(FileError):
        sysfs.boot_id()
    put(tmp_path / "proc/sys/kernel/random/boot_id", "\n")
    with pytest.raises(FileError, match="empty"):
        sysfs.boot_id()
    put(tmp_path / "proc/sys/kernel/random/boot_id", "5d3c\n")
    assert sysfs.boot_id() == "5d3c"


def test_device_nodes_are_below_the_root(tmp_path: Path) -> None:
    sysfs = HostSysfs(HostRoots())
    found = sysfs.device_node(Path("/dev/null"))
    assert found is not None and (found.major, found.minor) == (1, 3)
    assert sysfs.device_node(Path("/dev/pts")) is None
    elsewhere = HostSysfs(HostRoots(dev=tmp_path))
    assert elsewhere.device_node(Path("/dev/null")) is None
    (tmp_path / "null").symlink_to("/dev/null")
    assert elsewhere.device_node(Path("/dev/null")) == found
    assert elsewhere.device_node(tmp_path / "null") == found
