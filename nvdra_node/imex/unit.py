"""The systemd door: looks at, starts, stops and signals the unit of nvidia-imex. Called by ``supervisor``.

nvidia-imex is never a child of ours: systemd owns it, so that our end, restart or upgrade leaves it alone. Which other
units would have the machine's one IMEX session is looked at with the same command.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from nvdra_core import log
from nvdra_core.clock import Deadline
from nvdra_core.errors import HostError
from nvdra_core.value import Value
from nvdra_node.host.ports import Commands
from nvdra_node.imex.model import Unit, UnitActivity

_LOG = log.get(__name__)

UNIT = "nvdra-imex.service"
FOREIGN_UNITS = ("nvidia-imex.service",)
_PROPERTIES = "Id,ActiveState,InvocationID,Result,ExecMainStatus"
_RUNNING = ("active", "activating", "reloading", "deactivating")
_LINES = 4
_MAX_TEXT = 400


class Look(Value):
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
    """The real systemd, through systemctl and journalctl."""

    def __init__(self, commands: Commands, systemctl: Path, journalctl: Path) -> None:
        self._commands = commands
        self._systemctl = str(systemctl)
        self._journalctl = str(journalctl)

    def look(self, deadline: Deadline) -> Look:
        """See UnitDoor."""
        argv = [self._systemctl, "show", "-p", _PROPERTIES, UNIT, *FOREIGN_UNITS]
        blocks = parse_show(self._commands.run(argv, deadline).stdout)
        foreign = [
            name for name in FOREIGN_UNITS if blocks.get(name, {}).get("ActiveState") in _RUNNING
        ]
        return Look(read_unit(blocks.get(UNIT, {})), ", ".join(foreign))

    def start(self, deadline: Deadline) -> None:
        """See UnitDoor."""
        self._commands.run([self._systemctl, "start", UNIT], deadline)

    def stop(self, deadline: Deadline) -> None:
        """See UnitDoor."""
        self._commands.run([self._systemctl, "stop", UNIT], deadline)

    def reload(self, deadline: Deadline) -> None:
        """See UnitDoor."""
        self._commands.run([self._systemctl, "kill", "--signal=SIGUSR1", UNIT], deadline)

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


def parse_show(text: str) -> dict[str, dict[str, str]]:
    """Output of ``systemctl show`` of several units, by their Id. Pure."""
    blocks: dict[str, dict[str, str]] = {}
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in values:
            blocks[values["Id"]] = values
    return blocks


def read_unit(values: Mapping[str, str]) -> Unit:
    """Properties of systemd -> Unit. Pure. A state that is not known counts as on its way (``activating``)."""
    state = values.get("ActiveState", "inactive")
    known = {activity.value: activity for activity in UnitActivity}
    status = values.get("ExecMainStatus", "0")
    return Unit(
        activity=known.get(
            state, UnitActivity.ACTIVE if state == "reloading" else UnitActivity.ACTIVATING
        ),
        invocation_id=values.get("InvocationID", ""),
        result=values.get("Result", "success"),
        exit_status=int(status) if status.isdigit() else 0,
    )
