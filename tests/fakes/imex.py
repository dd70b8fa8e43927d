"""UnitClient and CtlClient of a daemon in memory, with state and faults."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from nvdra_core.api.fabric import ImexState
from nvdra_core.errors import CommandError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.imex.daemon.ctl import ImexDomainStatus
from nvdra_node.imex.daemon.unit import UnitStatus
from nvdra_node.imex.model import Run, Unit, UnitActivity


@dataclass
class FakeDaemon:
    """All fields may be changed at any time."""

    starts_as: ImexState = ImexState.READY
    """State after a start."""
    fails_to_start: bool = False
    """The process exits with status 1 at once."""
    refuses: bool = False
    """Every systemctl command fails."""
    refuses_to: set[str] = field(default_factory=set)
    """systemctl commands that fail: show, start, stop, kill."""
    foreign: str = ""
    log_lines: str = ""
    ctl_problem: str = ""
    view: ImexDomainStatus | None = None
    state_now: ImexState = ImexState.UNSET
    unit: Unit = field(default_factory=Unit)
    history: list[str] = field(default_factory=list)
    """start, stop, reload."""
    queries: list[str] = field(default_factory=list)
    """show, state, domain."""
    starts: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def die(self, result: str = "signal", status: int = 9) -> None:
        """The process ends by itself."""
        with self._lock:
            is_clean = result == "success"
            self.unit = Unit(
                activity=UnitActivity.INACTIVE if is_clean else UnitActivity.FAILED,
                invocation_id=self.unit.invocation_id,
                result=result,
                exit_status=status,
            )

    def restart_by_hand(self) -> None:
        """``systemctl restart``."""
        with self._lock:
            self._begin()

    def reboot(self) -> None:
        """systemd knows no process."""
        with self._lock:
            self.unit = Unit()
            self.state_now = ImexState.UNSET

    def status(self, deadline: Deadline) -> UnitStatus:
        """See UnitClient."""
        self.queries.append("show")
        self._check("show")
        return UnitStatus(self.unit, self.foreign)

    def start(self, deadline: Deadline) -> None:
        """See UnitClient."""
        self._check("start")
        with self._lock:
            self.history.append("start")
            if not self.unit.is_running:
                self._begin()
        if self.fails_to_start:
            self.die("exit-code", 1)

    def stop(self, deadline: Deadline) -> None:
        """See UnitClient."""
        self._check("stop")
        self.history.append("stop")
        self.die("success", 0)

    def reload(self, deadline: Deadline) -> None:
        """See UnitClient."""
        self._check("kill")
        self.history.append("reload")

    def last_log_lines(self, invocation_id: str, deadline: Deadline) -> str:
        """See UnitClient."""
        return self.log_lines

    def state(self, deadline: Deadline) -> ImexState:
        """See CtlClient."""
        self.queries.append("state")
        return self.state_now if self.unit.is_running else ImexState.UNAVAILABLE

    def last_error(self) -> str:
        """See CtlClient."""
        return self.ctl_problem

    def domain(self, run: Run, deadline: Deadline) -> ImexDomainStatus | None:
        """See CtlClient."""
        self.queries.append("domain")
        return self.view if self.unit.is_running else None

    def version(self, deadline: Deadline) -> str:
        """See CtlClient."""
        return "580.65.06"

    def _begin(self) -> None:
        self.starts += 1
        self.unit = Unit(activity=UnitActivity.ACTIVE, invocation_id=f"invocation-{self.starts}")
        self.state_now = self.starts_as

    def _check(self, what: str) -> None:
        if self.refuses or what in self.refuses_to:
            raise CommandError(
                f"systemctl {what}: ended with status 1",
                argv=("systemctl", what),
                returncode=1,
                output="",
            )
