"""Observes and controls the IMEX daemon through its clients. Called by ``supervisor``, in its thread."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from nvdra_core.api.fabric import FabricNodeSpec, ImexState
from nvdra_core.errors import HostError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.imex.daemon.ctl import CtlClient
from nvdra_node.imex.daemon.store import Store
from nvdra_node.imex.daemon.unit import UnitClient, UnitStatus
from nvdra_node.imex.model import (
    Action,
    ActionKind,
    HostAddresses,
    Mode,
    Policy,
    Unit,
    UnitActivity,
)

_LOG = log.get(__name__)

STATUS_TIMEOUT_S = 5.0
STATE_TIMEOUT_S = 2.0
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 40.0
READY_TTL_S = 4.5
"""How long an answer READY is reused while no claim waits; a little less than ``STEADY_POLL_S``."""
STOPPED_TTL_S = 15.0
"""How long a status without a daemon is reused while none is needed; half of ``IDLE_POLL_S``."""
RELOAD_INTERVAL_S = 5.0
"""nvidia-imex ignores a SIGUSR1 that follows another within this time."""
_NEVER = float("-inf")


class Dependencies(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor works with."""

    unit: UnitClient
    ctl: CtlClient
    store: Store
    clock: Clock
    policy: Policy
    boot_id: str
    addresses: HostAddresses = HostAddresses()
    """As they are at the start."""
    has_certificate: Callable[[], bool] = lambda: False


class Daemon:
    """See the module. ``request_reload`` is safe for any thread."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._ready = ("", _NEVER)
        """InvocationID whose last answer was READY, and until when that is reused."""
        self._stopped = (UnitStatus(Unit()), _NEVER)
        """Last status without a daemon, and until when it is reused."""
        self._reload_reason = ""
        """Empty: no reload is due."""
        self._reloaded_at_s = _NEVER

    def recent_stopped_status(self) -> UnitStatus | None:
        """The last status, if it is recent and had no daemon."""
        status, until_s = self._stopped
        return status if self._deps.clock.monotonic() < until_s else None

    def observe(self, *, was_ready: bool, must_query: bool = True) -> tuple[UnitStatus, ImexState]:
        """Status of the unit and state of its daemon, both of one incarnation. Raises HostError.

        Without ``must_query`` a recent answer READY is reused.
        """
        deps = self._deps
        self._stopped = (self._stopped[0], _NEVER)
        if deps.policy.mode is Mode.HOST_MANAGED:
            return self._observe_host_unit(), deps.ctl.state(Deadline(STATE_TIMEOUT_S, deps.clock))
        status = self._unit_status()
        unit = status.unit
        if unit.activity is not UnitActivity.ACTIVE:
            if unit.activity in (UnitActivity.INACTIVE, UnitActivity.FAILED):
                self._stopped = (status, deps.clock.monotonic() + STOPPED_TTL_S)
            return status, ImexState.UNSET
        invocation_id, until_s = self._ready
        is_same = was_ready and invocation_id == unit.invocation_id
        if is_same and not must_query and deps.clock.monotonic() < until_s:
            return status, ImexState.READY
        self._ready = ("", _NEVER)
        imex = deps.ctl.state(Deadline(STATE_TIMEOUT_S, deps.clock))
        if imex is ImexState.READY and not was_ready:
            again = self._unit_status()
            if again.unit != unit:
                return again, ImexState.UNSET
        if imex is ImexState.READY:
            self._ready = (unit.invocation_id, deps.clock.monotonic() + READY_TTL_S)
        return status, imex

    def _unit_status(self) -> UnitStatus:
        return self._deps.unit.status(Deadline(STATUS_TIMEOUT_S, self._deps.clock))

    def _observe_host_unit(self) -> UnitStatus:
        """The host's own unit, only to see its restarts: no claim waits for systemd's answer."""
        try:
            return self._unit_status()
        except HostError as error:
            _LOG.info("cannot read the host's nvidia-imex unit", v=1, error=str(error))
            return UnitStatus(Unit())

    def act(self, action: Action, spec: FabricNodeSpec | None) -> None:
        """Carry out one action. Raises HostError or FileError."""
        deps, run = self._deps, action.run
        self._stopped = (self._stopped[0], _NEVER)
        if action.kind is ActionKind.CLEAR_RECOVERY:
            deps.store.clear_recovery()
        elif action.kind is ActionKind.WRITE_CONFIG and run is not None:
            deps.store.write_config(run, spec)
        elif action.kind is ActionKind.START:
            _LOG.info("starting nvidia-imex", why=action.why, run=run)
            self._reload_reason, self._reloaded_at_s = "", _NEVER  # it reads the present files
            deps.unit.start(Deadline(START_TIMEOUT_S, deps.clock))
        elif action.kind is ActionKind.STOP:
            _LOG.info("stopping nvidia-imex", why=action.why)
            deps.unit.stop(Deadline(STOP_TIMEOUT_S, deps.clock))
        elif run is not None and spec is not None and deps.store.write_hosts(run, spec):
            # Without a spec (FabricNode deleted, file damaged) the daemon keeps its peers.
            self.request_reload(action.why)

    def request_reload(self, why: str) -> None:
        """Have the daemon read names and certificates again, at the next ``send_due_reload``."""
        self._reload_reason = why

    def send_due_reload(self) -> float | None:
        """Signal the running daemon if a reload is due and possible; seconds until it is possible, None without one.

        Raises HostError; the reload stays due.
        """
        deps, why = self._deps, self._reload_reason
        if not why:
            return None
        left_s = self._reloaded_at_s + RELOAD_INTERVAL_S - deps.clock.monotonic()
        if left_s > 0:
            return left_s
        _LOG.info("reloading nvidia-imex", v=1, why=why)
        self._reload_reason = ""  # before the signal: a request that comes meanwhile counts
        try:
            deps.unit.reload(Deadline(STATUS_TIMEOUT_S, deps.clock))
        except HostError:
            self._reload_reason = why
            raise
        self._reloaded_at_s = deps.clock.monotonic()
        deps.store.mark_reloaded()
        return None

    def last_log_lines(self, invocation_id: str) -> str:
        """The end of its log. Never raises."""
        deadline = Deadline(STATUS_TIMEOUT_S, self._deps.clock)
        return self._deps.unit.last_log_lines(invocation_id, deadline)
