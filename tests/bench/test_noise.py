"""Which rounds of a benchmark count: those that neither the host nor anybody on the machine disturbed."""

from __future__ import annotations

import pytest

from tests.bench import noise
from tests.bench.noise import Noise
from tests.bench.plugin import proc

QUIET = {"host_stolen": 0.1, "other_load": 0.0, "spin": 10.0}


@pytest.mark.parametrize(
    "disturbance", [{"host_stolen": 2.5}, {"other_load": 0.5}, {"spin": 13.0}], ids=str
)
def test_disturbed_round_is_left_out(disturbance: dict[str, float]) -> None:
    disturbed = QUIET | disturbance
    chosen, line = noise.choose({"ours": [QUIET, disturbed, QUIET]}, wanted=3)
    assert chosen == {"ours": [QUIET, QUIET]}
    assert line == "quiet rounds, which count: ours 2 of 3"


def test_quietest_round_of_all_contenders_is_the_reference() -> None:
    slow = QUIET | {"spin": 14.0}
    chosen, line = noise.choose({"ours": [slow, slow], "other": [QUIET, QUIET]}, wanted=2)
    assert chosen["ours"] == [slow, slow], "none of ours was quiet, so all count"
    assert "NOT quiet" in line
    assert "ours 0 of 2, other 2 of 2" in line


def test_all_rounds_count_when_too_few_were_quiet() -> None:
    stolen = QUIET | {"host_stolen": 9.0}
    chosen, line = noise.choose({"ours": [QUIET, stolen, stolen, stolen]}, wanted=4)
    assert len(chosen["ours"]) == 4
    assert "NOT quiet" in line


def test_signs_are_read_from_this_machine() -> None:
    before = Noise.read()
    signs = before.until(Noise.read())
    assert signs["spin"] > 0
    assert 0 <= signs["host_stolen"] <= 100
    assert proc.stolen_s() >= before.stolen_s
