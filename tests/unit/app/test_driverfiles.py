"""Checks of the list of driver files: at start, after changes, and with backoff while a file is missing."""

from __future__ import annotations

from nvdra_core.runtime.workers import Workers
from nvdra_node.app.driverfiles import DriverFilesMonitor
from tests.fakes.clock import FakeClock


class Lister:
    """A list that can be had or not."""

    def __init__(self) -> None:
        self.is_there = True
        self.asked = 0
        self.made = 1

    def warm_up(self) -> str:
        self.asked += 1
        return "" if self.is_there else "a library is gone"


class World:
    """The part, ticked by hand every second of fake time."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.lister = Lister()
        self.renewed = 0
        self.is_renewed = True
        self.reports: list[str] = []
        self.part = DriverFilesMonitor(
            self.lister, self._renew, self.reports.append, self.clock, Workers(self.clock)
        )

    def _renew(self) -> bool:
        self.renewed += 1
        return self.is_renewed

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.part.check_if_due()
            self.clock.advance(1.0)


def test_claims_files_are_renewed_at_start_and_after_changes() -> None:
    world = World()
    world.run(600)
    assert world.renewed == 1
    world.part.changed()
    world.run(600)
    assert world.renewed == 2
    world.lister.made += 1  # a check found another toolkit
    world.run(600)
    assert world.renewed == 3


def test_every_result_is_reported_within_seconds() -> None:
    world = World()
    assert not world.part.wait_first(0.0)
    world.run(1)
    assert world.part.wait_first(0.0) and world.reports == [""]
    world.lister.is_there = False
    world.run(11)
    assert world.reports[-1] == "a library is gone"
    world.lister.is_there = True
    world.run(16)
    assert world.reports[-1] == ""


def test_missing_files_are_checked_with_backoff() -> None:
    world = World()
    world.lister.is_there = False
    world.run(20)
    assert 3 <= world.lister.asked <= 5
    world.run(600)
    assert world.lister.asked <= 50 and world.renewed == 0
    world.lister.is_there = True
    world.run(16)
    assert world.renewed == 1
    world.run(600)
    assert world.renewed == 1


def test_change_resets_the_backoff() -> None:
    world = World()
    world.lister.is_there = False
    world.run(600)
    world.part.changed()
    asked = world.lister.asked
    world.run(10)
    assert world.lister.asked - asked >= 3


def test_failed_renewal_of_claims_is_retried() -> None:
    world = World()
    world.is_renewed = False
    world.run(600)
    assert 6 <= world.renewed <= 10
    world.is_renewed = True
    world.run(121)
    renewed = world.renewed
    world.run(600)
    assert world.renewed == renewed
