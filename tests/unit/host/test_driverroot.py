"""Finding the driver's files: every distribution's place, and links that belong to another root."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvdra_core.errors import HostError
from nvdra_node.host import driverroot


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("elf")
    return path


@pytest.mark.parametrize("place", driverroot.LIBRARY_DIRS)
def test_library_is_found_in_distributions_places(tmp_path: Path, place: str) -> None:
    file = put(tmp_path / place.strip("/") / "libnvidia-ml.so.1")
    assert driverroot.library(tmp_path) == file


@pytest.mark.parametrize("place", driverroot.PROGRAM_DIRS)
def test_programs_are_found_in_distributions_places(tmp_path: Path, place: str) -> None:
    file = put(tmp_path / place.strip("/") / "nvidia-smi")
    assert driverroot.program(tmp_path, "nvidia-smi") == file


def test_links_are_resolved_to_the_real_file(tmp_path: Path) -> None:
    real = put(tmp_path / "usr/lib/nvidia/libnvidia-ml.so.580.65.06")
    (tmp_path / "usr/lib64").symlink_to("/usr/lib/links")  # absolute: belongs to the root
    (tmp_path / "usr/lib/links").mkdir()
    (tmp_path / "usr/lib/links/libnvidia-ml.so.1").symlink_to("../nvidia/libnvidia-ml.so.580.65.06")
    assert driverroot.library(tmp_path) == real


def test_links_never_lead_out_of_the_root(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside/libnvidia-ml.so.1")
    root = tmp_path / "root"
    (root / "usr/lib64").mkdir(parents=True)
    (root / "usr/lib64/libnvidia-ml.so.1").symlink_to(outside)
    (root / "lib64").symlink_to("../../../outside")
    with pytest.raises(HostError):
        driverroot.library(root)


def test_directories_and_broken_links_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").mkdir()
    (tmp_path / "usr/lib64").mkdir(parents=True)
    (tmp_path / "usr/lib64/libnvidia-ml.so.1").symlink_to("nowhere")
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64/libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.1")
    file = put(tmp_path / "lib/aarch64-linux-gnu/libnvidia-ml.so.1")
    assert driverroot.library(tmp_path) == file


def test_missing_library_error_names_the_places(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"libnvidia-ml\.so\.1 is not below .*/usr/lib64"):
        driverroot.library(tmp_path)
