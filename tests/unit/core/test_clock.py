"""Deadlines on a clock that tests move by hand."""

import threading

import pytest

from nvdra_core.errors import DeadlineError
from nvdra_core.runtime.clock import Deadline
from tests.fakes.clock import FakeClock


def test_remaining_time_shrinks_to_zero():
    clock = FakeClock()
    deadline = Deadline(5.0, clock)
    clock.advance(3.0)
    assert deadline.remaining_s() == pytest.approx(2.0)
    clock.advance(30.0)
    assert deadline.remaining_s() == 0.0


def test_passed_deadline_names_what_was_waited_for():
    clock = FakeClock()
    deadline = Deadline(5.0, clock)
    deadline.check("MPS control daemon of claim ns/a")
    clock.advance(5.0)
    with pytest.raises(
        DeadlineError, match=r"MPS control daemon of claim ns/a: not done within 5 s"
    ):
        deadline.check("MPS control daemon of claim ns/a")


def test_fake_wait_advances_unless_the_event_is_set():
    clock, event = FakeClock(100.0), threading.Event()
    assert not clock.wait(event, 7.0)
    assert clock.monotonic() == 107.0
    event.set()
    assert clock.wait(event, 7.0)
    assert clock.wall() == 107.0
