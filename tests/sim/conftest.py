"""Roots for the simulator's own tests, and the mark that lets a machine without a compiler leave them out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.api import SimRoot

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.sim)
            if shutil.which("gcc") is None:
                item.add_marker(
                    pytest.mark.skip(reason="no gcc: the simulated libnvidia-ml cannot be built")
                )


@pytest.fixture
def h100(tmp_path: Path) -> Iterator[SimRoot]:
    root = SimRoot.create(tmp_path / "host", "h100x8")
    yield root
    root.destroy()


@pytest.fixture
def a100(tmp_path: Path) -> Iterator[SimRoot]:
    root = SimRoot.create(tmp_path / "host", "a100x8")
    yield root
    root.destroy()


@pytest.fixture
def gb200(tmp_path: Path) -> Iterator[SimRoot]:
    root = SimRoot.create(tmp_path / "host", "gb200-nvl4")
    yield root
    root.destroy()
