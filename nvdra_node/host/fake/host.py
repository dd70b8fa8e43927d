"""``fake_host``: a whole machine in memory for tests and for trying the plugin without hardware."""

from __future__ import annotations

from nvdra_core.clock import Clock, FakeClock
from nvdra_node.host.fake.commands import FakeCommands
from nvdra_node.host.fake.machine import FakeMachine
from nvdra_node.host.fake.nvml import FakeNvml
from nvdra_node.host.fake.smi import FakeSmi
from nvdra_node.host.fake.sysfs import FakeSysfs
from nvdra_node.host.host import Host
from nvdra_node.host.ports import HostRoots


def fake_host(machine: FakeMachine | None = None, clock: Clock | None = None) -> Host:
    """A Host on ``machine`` (one healthy H100 unless given). Keep the machine to change it while the code runs."""
    machine = machine or FakeMachine()
    clock = clock or FakeClock()
    return Host(
        roots=HostRoots(),
        nvml=FakeNvml(machine, clock),
        sysfs=FakeSysfs(machine),
        commands=FakeCommands(clock, {"nvidia-smi": FakeSmi(machine)}),
    )
