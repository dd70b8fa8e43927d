"""The systemd door: looks at, starts, stops and signals the unit of nvidia-imex. Called by ``supervisor``.

All but the journal goes through the unit broker (``host.units``).

nvidia-imex is never a child of ours: systemd owns it, so that our end, restart or upgrade leaves it alone. Which other
units would have the machine's one IMEX session is looked at with the same request. systemd is asked seldom: while the
process that it named lives (``life``), its answer stands.
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
from nvdra_node.imex.model import Unit, UnitActivity
from nvdra_node.imex.process_monitor import Life

_LOG = log.get(__name__)

UNIT = "nvdra-imex.service"
HOST_UNIT = "nvidia-imex.service"
FOREIGN_UNITS = (HOST_UNIT,)
_RUNNING = ("active", "activating", "reloading", "deactivating")
_LINES = 4
_MAX_TEXT = 400


class Look(msgspec.Struct, frozen=True):
    """One look at systemd."""

    unit: Unit
    foreign: str = ""
    """A unit of somebody else that has, or is about to have, the IMEX session."""


class UnitDoor(Protocol):
    """What the supervisor may do with units. All raise HostError."""

    def look(self, deadline: Deadline) -> Look:
        """How things are now."""

    def start(self, deadline: Deadline) -> None:
        """Start it; returns once there is a process, or there cannot be one."""

    def stop(self, deadline: Deadline) -> None:
        """End it gracefully (SIGTERM first): peers are told. Returns when it has ended."""

    def reload(self, deadline: Deadline) -> None:
        """SIGUSR1: read certificates and names again, connect again."""

    def last_words(self, invocation_id: str, deadline: Deadline) -> str:
        """The last lines of its log, as one line; empty when there are none. Never raises."""


class SystemdUnit:
    """The real systemd, through the unit broker, and journalctl. One thread at a time."""

    def __init__(
        self,
        units: Units,
        commands: Commands,
        journalctl: Path,
        hold: Callable[[int], Life | None] = lambda pid: None,
        name: str = UNIT,
    ) -> None:
        """``hold`` watches over a process (``life.Lives``); without one, systemd is asked each time. ``name``: of the
        unit; the host's own one is only looked at.
        """
        self._name = name
        self._units = units
        self._commands = commands
        self._journalctl = str(journalctl)
        self._hold = hold
        self._life: Life | None = None
        self._seen = Look(Unit())

    def look(self, deadline: Deadline) -> Look:
        """See UnitDoor. ``foreign`` may be of an earlier look while our daemon runs, which has the session."""
        if self._life is not None and not self._life.has_ended:
            return self._seen
        self._let_go()
        self._seen = self._ask(deadline)
        unit = self._seen.unit
        if unit.activity is UnitActivity.ACTIVE:
            self._life = self._hold(unit.main_pid)
            if self._life is not None and self._life.has_ended:
                # It has just ended, and systemd has not seen it yet.
                return replace(
                    self._seen,
                    unit=replace(unit, activity=UnitActivity.DEACTIVATING),
                )
        return self._seen

    def _ask(self, deadline: Deadline) -> Look:
        others = [name for name in FOREIGN_UNITS if name != self._name]
        blocks = self._units.show([self._name, *others], deadline)
        foreign = [name for name in others if blocks.get(name, {}).get("ActiveState") in _RUNNING]
        return Look(read_unit(blocks.get(self._name, {})), ", ".join(foreign))

    def start(self, deadline: Deadline) -> None:
        """See UnitDoor."""
        self._let_go()
        self._units.start(self._name, deadline)

    def stop(self, deadline: Deadline) -> None:
        """See UnitDoor."""
        self._let_go()
        self._units.stop(self._name, deadline)

    def reload(self, deadline: Deadline) -> None:
        """See UnitDoor."""
        if self._life is not None:
            try:
                self._life.signal(signal.SIGUSR1)
            except OSError as error:
                _LOG.info("nvidia-imex is signalled by systemd", v=2, error=str(error))
            else:
                return
        self._units.reload(self._name, deadline)

    def last_words(self, invocation_id: str, deadline: Deadline) -> str:
        """See UnitDoor."""
        argv = [self._journalctl, "--no-pager", "-q", "-o", "cat", "-n", str(_LINES)]
        argv.append(f"_SYSTEMD_INVOCATION_ID={invocation_id}")
        try:
            text = self._commands.run(argv, deadline).stdout
        except HostError as error:
            _LOG.info("the log of nvidia-imex cannot be read", v=2, error=str(error))
            return ""
        return " | ".join(line.strip() for line in text.splitlines() if line.strip())[-_MAX_TEXT:]

    def _let_go(self) -> None:
        """What was seen does not count any more."""
        if self._life is not None:
            self._life.close()
            self._life = None


def read_unit(values: Mapping[str, str]) -> Unit:
    """Properties of systemd -> Unit. Pure. A state that is not known counts as on its way (``activating``)."""
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
