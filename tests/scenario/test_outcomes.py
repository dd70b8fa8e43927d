"""Outcomes of applied effects: kept in the claim's record, and available to undo and verify."""

from __future__ import annotations

import pytest

from nvdra_core.errors import HostError
from tests.beds.memory.claim_world import World, a_claim

CLAIM = a_claim(set={"mode": "fast", "clock": "3"})


def outcomes(world: World) -> list[object]:
    record = world.deps.records.get("c1")
    return [] if record is None else [effect.get("outcome") for effect in record.effects]


def test_outcomes_are_stored_in_completed_record(world: World) -> None:
    world.prepare(CLAIM)
    assert outcomes(world) == [{"value": "fast"}, {"value": "3"}]
    world.restart()
    assert outcomes(world) == [{"value": "fast"}, {"value": "3"}]


def test_outcome_is_stored_before_next_effect(world: World) -> None:
    seen: list[list[object]] = []
    world.machine.on_apply = lambda: seen.append(outcomes(world))
    world.prepare(CLAIM)
    assert seen == [[None, None], [{"value": "fast"}, None]]


def test_outcome_is_kept_when_later_effect_fails(world: World) -> None:
    def fail_second() -> None:
        if world.machine.settings:
            raise HostError("the second effect fails")

    world.machine.on_apply = fail_second
    with pytest.raises(HostError):
        world.prepare(CLAIM)
    world.restart()
    assert outcomes(world) == [{"value": "fast"}, None]


def test_undo_gets_outcome(world: World) -> None:
    world.prepare(CLAIM)
    world.unprepare(CLAIM)
    assert [effect["outcome"] for effect in world.machine.undone] == [
        {"value": "3"},
        {"value": "fast"},
    ]


def test_sharing_claim_adopts_original_and_not_outcome(world: World) -> None:
    world.prepare(CLAIM)
    record = world.deps.records.get("c1")
    assert record is not None
    plan = world.deps.driver.plan(a_claim("c2", set={"mode": "fast"}), [record])
    assert [sorted(effect) for effect in plan.effects] == [["kind", "original", "target", "value"]]


def test_effects_with_other_outcome_are_the_same_effect(world: World) -> None:
    world.prepare(CLAIM)
    record = world.deps.records.get("c1")
    assert record is not None
    steps = world.deps.records.writes
    world.machine.settings.clear()
    world.prepare(CLAIM)
    assert outcomes(world) == [{"value": "fast"}, {"value": "3"}]
    assert world.deps.records.writes == steps + 1, "applied again without another journal entry"
