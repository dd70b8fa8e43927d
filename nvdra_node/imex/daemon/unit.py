"""Client of systemd for the unit of nvidia-imex: status, start, stop, reload, and its last log lines. Called by
``control``.

Everything but the journal goes through the unit broker (``host.units``). nvidia-imex is a child of systemd and not of
this process, so a restart or an upgrade of the supervisor leaves it alone. The last status stands while the process
named in it lives (``process_monitor``); the same request shows if another unit holds the machine's one IMEX session.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec.structs import replace

from nvdra_core.errors import HostError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Deadline
from nvdra_node.host.ports import Commands
from nvdra_node.host.units import Units
from nvdra_node.imex.daemon.process_monitor import MonitoredProcess
from nvdra_node.imex.model import Unit, UnitActivity

_LOG = log.get(__name__)

UNIT = "nvdra-imex.service"
HOST_UNIT = "nvidia-imex.service"
_RUNNING = ("active", "activating", "reloading", "deactivating")
_LINES = 4
_MAX_TEXT = 400


class UnitStatus(msgspec.Struct, frozen=True):
    """What systemd reported."""

    unit: Unit
    foreign: str = ""
    """Another unit that holds the IMEX session or is about to."""


class UnitClient(Protocol):
    """What the supervisor does with units. All raise HostError."""

    def status(self, deadline: Deadline) -> UnitStatus:
        """The status now."""

    def start(self, deadline: Deadline) -> None:
        """Start the unit; returns when it has a process or has failed."""

    def stop(self, deadline: Deadline) -> None:
        """Stop the unit with SIGTERM, so that the daemon tells its peers. Returns when it has ended."""

    def reload(self, deadline: Deadline) -> None:
        """SIGUSR1: nvidia-imex reads certificates and names again, and reconnects."""

    def last_log_lines(self, invocation_id: str, deadline: Deadline) -> str:
        """The last lines of its log joined into one; empty without any. Never raises."""


class SystemdClient:
    """See UnitClient: systemd through the unit broker, and journalctl. One thread at a time."""

    def __init__(
        self,
        units: Units,
        commands: Commands,
        journalctl: Path,
        open_process: Callable[[int], MonitoredProcess | None] = lambda pid: None,
        name: str = UNIT,
    ) -> None:
        """``open_process``: ``ProcessMonitor.open``; without it systemd is asked each time. ``name``: of the unit."""
        self._name = name
        self._units = units
        self._commands = commands
        self._journalctl = str(journalctl)
        self._open_process = open_process
        self._process: MonitoredProcess | None = None
        self._last = UnitStatus(Unit())

    def status(self, deadline: Deadline) -> UnitStatus:
        """See UnitClient. While the daemon's process lives this is the last answer, ``foreign`` included."""
        if self._process is not None and not self._process.has_ended:
            return self._last
        self._close_process()
        self._last = self._query(deadline)
        unit = self._last.unit
        if unit.activity is UnitActivity.ACTIVE:
            self._process = self._open_process(unit.main_pid)
            if self._process is not None and self._process.has_ended:
                # It ended a moment ago, and systemd has not noticed yet.
                ending = replace(unit, activity=UnitActivity.DEACTIVATING)
                return replace(self._last, unit=ending)
        return self._last

    def _query(self, deadline: Deadline) -> UnitStatus:
        others = [name for name in (HOST_UNIT,) if name != self._name]
        blocks = self._units.show([self._name, *others], deadline)
        foreign = [name for name in others if blocks.get(name, {}).get("ActiveState") in _RUNNING]
        return UnitStatus(parse_unit(blocks.get(self._name, {})), ", ".join(foreign))

    def start(self, deadline: Deadline) -> None:
        """See UnitClient."""
        self._close_process()
        self._units.start(self._name, deadline)

    def stop(self, deadline: Deadline) -> None:
        """See UnitClient."""
        self._close_process()
        self._units.stop(self._name, deadline)

    def reload(self, deadline: Deadline) -> None:
        """See UnitClient."""
        if self._process is not None:
            try:
                self._process.signal(signal.SIGUSR1)
            except OSError as error:
                _LOG.info("cannot signal nvidia-imex; asking systemd to", v=2, error=str(error))
            else:
                return
        self._units.reload(self._name, deadline)

    def last_log_lines(self, invocation_id: str, deadline: Deadline) -> str:
        """See UnitClient."""
        argv = [self._journalctl, "--no-pager", "-q", "-o", "cat", "-n", str(_LINES)]
        argv.append(f"_SYSTEMD_INVOCATION_ID={invocation_id}")
        try:
            text = self._commands.run(argv, deadline).stdout
        except HostError as error:
            _LOG.info("cannot read the log of nvidia-imex", v=2, error=str(error))
            return ""
        return " | ".join(line.strip() for line in text.splitlines() if line.strip())[-_MAX_TEXT:]

    def _close_process(self) -> None:
        """The last status is no longer current."""
        if self._process is not None:
            self._process.close()
            self._process = None


def parse_unit(values: Mapping[str, str]) -> Unit:
    """systemd properties -> Unit. Pure. An unknown state counts as ``activating``."""
    state = values.get("ActiveState", "inactive")
    known = {activity.value: activity for activity in UnitActivity}
    status, pid = values.get("ExecMainStatus", "0"), values.get("MainPID", "0")
    return Unit(
        activity=known.get(
            state, UnitActivity.ACTIVE if state == "reloading" else UnitActivity.ACTIVATING
        ),
        invocation_id=values.get("InvocationID", ""),
        result=values.get("Result", "success"),
        exit_status=int(status) if status.isdigit() else 0,
        main_pid=int(pid) if pid.isdigit() else 0,
    )
