"""A monitored process: alive, ended, signalled; systemd is not asked while it lives."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nvdra_core.runtime.clock import Deadline
from nvdra_node.host.ports import CommandResult
from nvdra_node.host.systemctl import SystemctlUnits
from nvdra_node.imex.daemon.process_monitor import ProcessMonitor
from nvdra_node.imex.daemon.unit import SystemdClient
from nvdra_node.imex.model import UnitActivity
from tests.fakes.clock import FakeClock
from tests.fakes.host.commands import FakeCommands

SHOW = "Id=nvdra-imex.service\nActiveState={state}\nInvocationID={run}\nResult=success\nMainPID={pid}\n"
TIMEOUT_S = 60.0


class Machine:
    """A systemd whose unit is a process that sleeps."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.monitor = ProcessMonitor()
        self.monitor.subscribe(self.ended.set)
        self.process = subprocess.Popen(["sleep", "600"])
        self.state = "active"
        self.commands = FakeCommands(FakeClock(), {"/bin/systemctl": self._answer})
        path = Path("/bin/systemctl")
        units = SystemctlUnits(self.commands, path)
        self.unit = SystemdClient(units, self.commands, path, self.monitor.open)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.monitor.run, args=(self.stopping,))
        self.thread.start()

    def _answer(self, argv: Sequence[str]) -> CommandResult:
        text = SHOW.format(state=self.state, run=self.process.pid, pid=self.process.pid)
        return CommandResult(stdout=text if argv[1] == "show" else "", stderr="")

    def activity(self) -> UnitActivity:
        return self.unit.status(Deadline(5, FakeClock())).unit.activity

    def shows(self) -> int:
        return sum(argv[1] == "show" for argv in self.commands.history)

    def die(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.ended.wait(TIMEOUT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.stopping.set()
        self.monitor.stop()
        self.thread.join(TIMEOUT_S)
        assert not self.thread.is_alive()


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.close()


def test_systemd_is_asked_once_while_the_process_lives(machine: Machine) -> None:
    assert [machine.activity() for _ in range(5)] == [UnitActivity.ACTIVE] * 5
    assert machine.shows() == 1


def test_end_is_reported_at_once_and_systemd_asked_again(machine: Machine) -> None:
    machine.activity()
    machine.state = "failed"
    machine.die()
    assert machine.activity() is UnitActivity.FAILED
    assert machine.shows() == 2


def test_ended_process_still_active_in_systemd_is_deactivating(machine: Machine) -> None:
    machine.activity()
    machine.die()
    assert machine.activity() is UnitActivity.DEACTIVATING
    machine.state = "failed"
    assert machine.activity() is UnitActivity.FAILED


@pytest.mark.parametrize("call", ["start", "stop"])
def test_systemd_is_asked_after_start_or_stop(machine: Machine, call: str) -> None:
    machine.activity()
    getattr(machine.unit, call)(Deadline(5, FakeClock()))
    machine.activity()
    assert machine.shows() == 2


def test_open_process_is_signalled_without_systemctl(machine: Machine) -> None:
    machine.activity()
    machine.unit.reload(Deadline(5, FakeClock()))
    assert machine.process.wait(TIMEOUT_S) == -signal.SIGUSR1
    machine.unit.reload(Deadline(5, FakeClock()))
    assert machine.commands.history[-1][1:] == ("kill", "--signal=SIGUSR1", "nvdra-imex.service")


def test_pid_0_opens_no_process() -> None:
    monitor = ProcessMonitor()
    assert monitor.open(0) is None
