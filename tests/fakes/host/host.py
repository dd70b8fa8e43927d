"""``fake_host``: a whole machine in memory."""

from __future__ import annotations

from nvdra_core.runtime.clock import Clock
from nvdra_node.host.host import Host
from nvdra_node.host.ports import HostRoots
from tests.fakes.clock import FakeClock
from tests.fakes.host.commands import FakeCommands
from tests.fakes.host.machine import FakeMachine
from tests.fakes.host.nvml import FakeNvml
from tests.fakes.host.smi import FakeSmi
from tests.fakes.host.sysfs import FakeSysfs


def fake_host(machine: FakeMachine | None = None, clock: Clock | None = None) -> Host:
    """A Host on ``machine`` (one healthy H100 unless given). Keep the machine to change it while the code runs."""
    machine = machine or FakeMachine()
    clock = clock or FakeClock()
    return Host(
        roots=HostRoots(),
        nvml=FakeNvml(machine, clock),
        events=FakeNvml(machine, clock),
        sysfs=FakeSysfs(machine),
        commands=FakeCommands(clock, {"nvidia-smi": FakeSmi(machine)}),
    )
