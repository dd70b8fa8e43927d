"""Units by ``systemctl``, which needs access to systemd's socket. Used by the unit broker only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nvdra_core.runtime.clock import Deadline
from nvdra_node.host.ports import Commands
from nvdra_node.host.units import Properties

PROPERTIES = (
    *("Id", "LoadState", "ActiveState", "SubState", "InvocationID", "Result"),
    *("ExecMainCode", "ExecMainStatus", "MainPID"),
)


class SystemctlUnits:
    """See host.units.Units. Safe for several threads."""

    def __init__(self, commands: Commands, systemctl: Path) -> None:
        self._commands = commands
        self._systemctl = str(systemctl)

    def show(self, names: Sequence[str], deadline: Deadline) -> dict[str, Properties]:
        """See Units."""
        argv = [self._systemctl, "show", "-p", ",".join(PROPERTIES), *names]
        return parse_show(self._commands.run(argv, deadline).stdout)

    def start(self, name: str, deadline: Deadline) -> None:
        """See Units."""
        self._run("start", name, deadline)

    def stop(self, name: str, deadline: Deadline) -> None:
        """See Units."""
        self._run("stop", name, deadline)

    def reload(self, name: str, deadline: Deadline) -> None:
        """See Units."""
        self._commands.run([self._systemctl, "kill", "--signal=SIGUSR1", name], deadline)

    def reset_failed(self, name: str, deadline: Deadline) -> None:
        """See Units."""
        self._run("reset-failed", name, deadline)

    def _run(self, verb: str, name: str, deadline: Deadline) -> None:
        self._commands.run([self._systemctl, verb, name], deadline)


def parse_show(text: str) -> dict[str, Properties]:
    """Output of ``systemctl show`` of several units, by their Id."""
    blocks: dict[str, Properties] = {}
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in values:
            blocks[values["Id"]] = values
    return blocks
