"""CDI files of claims with IMEX channels are rewritten for a new major."""

from __future__ import annotations

from nvdra_core.runtime.workers import Workers
from nvdra_node.app.channelnumbers import ChannelNumberMonitor
from nvdra_node.computedomain.model import CHANNEL_CLASS
from tests.fakes.clock import FakeClock
from tests.fakes.host.machine import FakeMachine
from tests.fakes.host.sysfs import FakeSysfs


def test_files_are_renewed_at_start_and_per_new_major() -> None:
    machine, clock, renewed = FakeMachine(), FakeClock(), []
    machine.char_majors[CHANNEL_CLASS] = 237
    part = ChannelNumberMonitor(
        FakeSysfs(machine), lambda: renewed.append("now"), clock, Workers(clock)
    )
    for _ in range(3):
        part.check()
    assert len(renewed) == 1
    machine.unload_driver()
    part.check()
    machine.load_driver()
    part.check()
    assert len(renewed) == 1, "the same number is as good as before"
    machine.char_majors[CHANNEL_CLASS] = 240
    for _ in range(3):
        part.check()
    assert len(renewed) == 2
