"""Publish schedule: immediate on changes, with backoff after failures, audits in between."""

from __future__ import annotations

import pytest

from nvdra_core.kube.retry import Backoff
from nvdra_node.kubeletplugin.slices import schedule
from nvdra_node.kubeletplugin.slices.schedule import PublishSchedule
from tests.fakes.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def idle(clock: FakeClock) -> PublishSchedule:
    """A schedule after its first success: only the periodic audit is due."""
    backoff = Backoff(first_s=0.25, limit_s=schedule.RETRY_LIMIT_S, random=lambda: 0.5)
    made = PublishSchedule(clock, backoff)
    assert made.due_in_s() == 0 and made.begin()
    made.succeeded(wrote=False)
    assert made.due_in_s() == schedule.AUDIT_S
    return made


def test_pool_change_is_due_at_once_without_audit(idle: PublishSchedule) -> None:
    idle.changed()
    assert idle.due_in_s() == 0 and not idle.begin()
    assert idle.due_in_s() == schedule.AUDIT_S


def test_continuous_changes_are_written_twice_a_second(
    idle: PublishSchedule, clock: FakeClock
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


def test_registration_audits_at_once_and_after_30_s(
    idle: PublishSchedule, clock: FakeClock
) -> None:
    idle.registered()
    assert idle.due_in_s() == 0 and idle.begin()
    idle.succeeded(wrote=False)
    assert idle.due_in_s() == pytest.approx(schedule.POST_REGISTRATION_AUDIT_S)
    clock.advance(schedule.POST_REGISTRATION_AUDIT_S)
    assert idle.due_in_s() == 0 and idle.begin()
    assert idle.due_in_s() == schedule.AUDIT_S


def test_registration_ends_backoff(idle: PublishSchedule) -> None:
    for _ in range(8):
        idle.failed()
    assert idle.due_in_s() > 10
    idle.registered()
    assert idle.due_in_s() == 0


def test_registration_resets_foreign_change_delay(idle: PublishSchedule, clock: FakeClock) -> None:
    for _ in range(8):
        idle.changed_externally()
        clock.advance(idle.due_in_s())
        idle.begin()
    idle.registered()
    idle.begin()
    idle.changed_externally()
    assert idle.due_in_s() == schedule.FOREIGN_CHANGE_DELAY_S


def test_failures_are_retried_with_backoff_forever(idle: PublishSchedule, clock: FakeClock) -> None:
    pauses = []
    for _ in range(50):
        idle.failed()
        pauses.append(idle.due_in_s())
        idle.changed()
        assert idle.due_in_s() == pauses[-1]  # a change does not shorten the backoff
        clock.advance(pauses[-1])
        assert idle.begin()
    assert 0.1 < pauses[0] < 0.3
    assert pauses[:5] == sorted(pauses[:5])
    assert max(pauses) <= schedule.RETRY_LIMIT_S and min(pauses[8:]) > 5
    idle.succeeded(wrote=False)
    idle.failed()
    assert idle.due_in_s() == pytest.approx(pauses[0])


def test_retry_after_overrides_shorter_backoff(idle: PublishSchedule) -> None:
    idle.failed(retry_after_s=40.0)
    assert idle.due_in_s() == 40


def test_several_foreign_deletions_cause_one_audit(idle: PublishSchedule, clock: FakeClock) -> None:
    for _ in range(5):
        idle.changed_externally()
    assert idle.due_in_s() == pytest.approx(schedule.FOREIGN_CHANGE_DELAY_S)
    clock.advance(schedule.FOREIGN_CHANGE_DELAY_S)
    assert idle.begin()
    assert idle.due_in_s() == schedule.AUDIT_S


def test_repeated_foreign_changes_back_off_to_10_s(idle: PublishSchedule, clock: FakeClock) -> None:
    pauses = []
    for _ in range(8):
        idle.changed_externally()
        pauses.append(idle.due_in_s())
        clock.advance(pauses[-1])
        assert idle.begin()
        idle.succeeded(wrote=True)
    assert pauses == pytest.approx([1, 2, 4, 8, 10, 10, 10, 10])
    clock.advance(schedule.FOREIGN_CHANGE_RESET_S)
    idle.changed_externally()
    assert idle.due_in_s() == pytest.approx(schedule.FOREIGN_CHANGE_DELAY_S)


def test_pool_change_keeps_pending_audit(idle: PublishSchedule) -> None:
    idle.changed_externally()
    idle.changed()
    assert not idle.begin()
    assert idle.due_in_s() == pytest.approx(schedule.FOREIGN_CHANGE_DELAY_S)


def test_audit_is_periodic(idle: PublishSchedule, clock: FakeClock) -> None:
    clock.advance(schedule.AUDIT_S)
    assert idle.due_in_s() == 0 and idle.begin()
