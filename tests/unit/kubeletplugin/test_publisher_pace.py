"""When slices are published: at once, again, and never in a hot loop."""

from __future__ import annotations

import pytest

from nvdra_core.kube.retry import Backoff
from nvdra_core.runtime.clock import FakeClock
from nvdra_node.kubeletplugin.slices import schedule
from nvdra_node.kubeletplugin.slices.schedule import Pace


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def idle(clock: FakeClock) -> Pace:
    """Nothing to do but the audit."""
    made = Pace(clock, Backoff(first_s=0.25, limit_s=schedule.RETRY_LIMIT_S, random=lambda: 0.5))
    assert made.due_in_s() == 0 and made.begin()
    made.succeeded(wrote=False)
    assert made.due_in_s() == schedule.AUDIT_S
    return made


def test_a_change_is_published_at_once_without_looking(idle: Pace) -> None:
    idle.changed()
    assert idle.due_in_s() == 0 and not idle.begin()
    assert idle.due_in_s() == schedule.AUDIT_S


def test_a_pool_that_changes_all_the_time_is_written_twice_a_second(
    idle: Pace, clock: FakeClock
) -> None:
    writes = 0
    for _ in range(1000):
        idle.changed()
        clock.advance(0.01)
        if idle.due_in_s() == 0:
            idle.begin()
            idle.succeeded(wrote=True)
            writes += 1
    assert 19 <= writes <= 21


def test_a_registration_is_followed_by_a_look_at_once_and_after_half_a_minute(
    idle: Pace, clock: FakeClock
) -> None:
    idle.registered()
    assert idle.due_in_s() == 0 and idle.begin()
    idle.succeeded(wrote=False)
    assert idle.due_in_s() == pytest.approx(30)
    clock.advance(30)
    assert idle.due_in_s() == 0 and idle.begin()
    assert idle.due_in_s() == schedule.AUDIT_S


def test_a_registration_ends_a_back_off(idle: Pace) -> None:
    for _ in range(8):
        idle.failed()
    assert idle.due_in_s() > 10
    idle.registered()
    assert idle.due_in_s() == 0


def test_the_wipe_of_a_kubelet_that_starts_again_is_answered_quickly(
    idle: Pace, clock: FakeClock
) -> None:
    for _ in range(8):
        idle.meddled()
        clock.advance(idle.due_in_s())
        idle.begin()
    idle.registered()
    idle.begin()
    idle.meddled()
    assert idle.due_in_s() == schedule.SETTLE_S


def test_failures_are_retried_with_growing_pauses_and_for_ever(
    idle: Pace, clock: FakeClock
) -> None:
    pauses = []
    for _ in range(50):
        idle.failed()
        pauses.append(idle.due_in_s())
        idle.changed()
        assert idle.due_in_s() == pauses[-1]  # changes do not get round it
        clock.advance(pauses[-1])
        assert idle.begin()
    assert 0.1 < pauses[0] < 0.3
    assert pauses[:5] == sorted(pauses[:5])
    assert max(pauses) <= schedule.RETRY_LIMIT_S and min(pauses[8:]) > 5
    idle.succeeded(wrote=False)
    idle.failed()
    assert idle.due_in_s() == pytest.approx(pauses[0])


def test_the_server_says_when_to_come_back(idle: Pace) -> None:
    idle.failed(retry_after_s=40.0)
    assert idle.due_in_s() == 40


def test_a_wipe_in_pieces_is_answered_once_after_a_second(idle: Pace, clock: FakeClock) -> None:
    for _ in range(5):
        idle.meddled()
    assert idle.due_in_s() == pytest.approx(schedule.SETTLE_S)
    clock.advance(schedule.SETTLE_S)
    assert idle.begin()
    assert idle.due_in_s() == schedule.AUDIT_S


def test_somebody_who_keeps_meddling_is_answered_ever_more_slowly_but_within_15_s(
    idle: Pace, clock: FakeClock
) -> None:
    pauses = []
    for _ in range(8):
        idle.meddled()
        pauses.append(idle.due_in_s())
        clock.advance(pauses[-1])
        assert idle.begin()
        idle.succeeded(wrote=True)
    assert pauses == pytest.approx([1, 2, 4, 8, 10, 10, 10, 10])
    clock.advance(schedule.CALM_S)
    idle.meddled()
    assert idle.due_in_s() == pytest.approx(schedule.SETTLE_S)


def test_a_change_does_not_swallow_a_look_that_is_still_to_come(idle: Pace) -> None:
    idle.meddled()
    idle.changed()
    assert not idle.begin()
    assert idle.due_in_s() == pytest.approx(schedule.SETTLE_S)


def test_all_is_looked_at_from_time_to_time(idle: Pace, clock: FakeClock) -> None:
    clock.advance(schedule.AUDIT_S)
    assert idle.due_in_s() == 0 and idle.begin()
