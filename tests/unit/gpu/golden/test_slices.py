"""What every simulated machine publishes is what is committed, to the letter and in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.gpu.golden import make


@pytest.mark.sim
@pytest.mark.parametrize("profile", make.PROFILES)
def test_devices_are_as_committed(tmp_path: Path, profile: str) -> None:
    assert make.devices(tmp_path / "host", profile) == json.loads(make.golden(profile).read_text())


def test_every_committed_file_belongs_to_a_profile() -> None:
    assert {path.stem for path in make.HERE.glob("*.json")} == set(make.PROFILES)
