"""Racks for tests; whatever they started is ended."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.beds.services.tray_rack import Rack


@pytest.fixture
def make_rack() -> Iterator[Callable[..., Rack]]:
    made: list[Rack] = []

    def make(trays: int = 1, profile: str = "gb200-nvl4", **more: bool) -> Rack:
        made.append(Rack(Path(tempfile.mkdtemp(prefix="nvdra-")), trays, profile, **more))
        return made[-1]

    yield make
    for rack in made:
        rack.end()


@pytest.fixture
def rack(make_rack: Callable[..., Rack]) -> Rack:
    """One tray whose services run, registered."""
    made = make_rack()
    made.trays[0].start()
    made.trays[0].register()
    return made
