"""Packages, image and wheel contain the modules of their own packages, and nothing of the tests."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
import tomllib

from imagebuild import image
from nvdra_packages import tree
from nvdra_packages.layout import LIBRARY, TOP
from nvdra_packages.version import Release, current

NODE = {"nvdra_core", "nvdra_node"}
CLUSTER = {"nvdra_core", "nvdra_cluster"}
IMPORT = re.compile(r"^\s*(from|import) tests\b", re.MULTILINE)


@pytest.fixture(scope="module")
def release() -> Release:
    return current("0.1.0")


def modules_of(packages: set[str], top: Path = TOP) -> set[str]:
    return {str(path.relative_to(top)) for name in packages for path in (top / name).rglob("*.py")}


def modules_in(root: Path) -> set[str]:
    """All Python modules of a staged tree, wherever they are."""
    return {str(path.relative_to(root / LIBRARY)) for path in root.rglob("*.py")}


def test_deb_and_rpm_contain_the_nodes_packages(tmp_path: Path, release: Release) -> None:
    tree.stage(tmp_path, release)
    assert modules_in(tmp_path) == modules_of(NODE)
    names = {part for path in tmp_path.rglob("*") for part in path.relative_to(tmp_path).parts}
    assert not names & {"tests", "fakes", "beds"}


def test_image_contains_the_controllers_packages(tmp_path: Path, release: Release) -> None:
    image.stage_ours(tmp_path, release, Path(sys.executable))
    assert modules_in(tmp_path) == modules_of(CLUSTER)


def test_wheel_contains_all_three_packages() -> None:
    with (TOP / "pyproject.toml").open("rb") as file:
        chosen = tomllib.load(file)["tool"]["setuptools"]["packages"]["find"]
    found = importlib.import_module("setuptools").find_packages(str(TOP), **chosen)
    assert {name.partition(".")[0] for name in found} == NODE | CLUSTER
    listed = {
        str(p.relative_to(TOP)) for n in found for p in TOP.joinpath(*n.split(".")).glob("*.py")
    }
    assert listed == modules_of(NODE | CLUSTER)


def test_shipped_code_imports_no_test_code() -> None:
    sources = [path for name in NODE | CLUSTER for path in (TOP / name).rglob("*.py")]
    assert [str(path) for path in sources if IMPORT.search(path.read_text())] == []
