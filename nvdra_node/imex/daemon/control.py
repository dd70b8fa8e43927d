"""The daemon as the supervisor handles it: one look, one action at a time. Called by ``supervisor`` alone."""

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

LOOK_S = 5.0
STATE_S = 2.0
START_S = 15.0
STOP_S = 40.0
READY_S = 4.5
"""How long an answer READY stands where nobody waits for one; a little less than the pause between two looks."""
RELOAD_S = 5.0
"""nvidia-imex heeds SIGUSR1 at most once in this time."""


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
    """Looks and acts through the deps. All raise HostError."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._ready = ("", float("-inf"))
        """The incarnation that said READY last, and until when that stands."""
        self._reload_reason = ""
        self._reloaded_at_s = float("-inf")

    def observe(self, *, was_ready: bool, must_query: bool = True) -> tuple[UnitStatus, ImexState]:
        """The unit, and what its daemon says; about one and the same incarnation.

        Without ``must_query``, an answer READY of a moment ago stands.
        """
        deps = self._deps
        if deps.policy.mode is Mode.HOST_MANAGED:
            return self._observe_host_unit(), deps.ctl.state(Deadline(STATE_S, deps.clock))
        look = deps.unit.status(Deadline(LOOK_S, deps.clock))
        if look.unit.activity is not UnitActivity.ACTIVE:
            return look, ImexState.UNSET
        incarnation, until_s = self._ready
        is_same = was_ready and incarnation == look.unit.invocation_id
        if is_same and not must_query and deps.clock.monotonic() < until_s:
            return look, ImexState.READY
        self._ready = ("", float("-inf"))
        imex = deps.ctl.state(Deadline(STATE_S, deps.clock))
        if imex is ImexState.READY and not was_ready:
            again = deps.unit.status(Deadline(LOOK_S, deps.clock))
            if again.unit != look.unit:
                return again, ImexState.UNSET
        if imex is ImexState.READY:
            self._ready = (look.unit.invocation_id, deps.clock.monotonic() + READY_S)
        return look, imex

    def _observe_host_unit(self) -> UnitStatus:
        """The host's own unit: only to see its restarts, so that a claim does not depend on systemd's answer."""
        try:
            return self._deps.unit.status(Deadline(LOOK_S, self._deps.clock))
        except HostError as error:
            _LOG.info("unit of the host's nvidia-imex cannot be read", v=1, error=str(error))
            return UnitStatus(Unit())

    def act(self, action: Action, spec: FabricNodeSpec | None) -> None:
        """Carry out one action."""
        deps, run = self._deps, action.run
        if action.kind is ActionKind.CLEAR_RECOVERY:
            deps.store.clear_recovery()
        elif action.kind is ActionKind.WRITE_CONFIG and run is not None:
            deps.store.write_config(run, spec)
        elif action.kind is ActionKind.START:
            _LOG.info("starting nvidia-imex", why=action.why, run=run)
            self._reload_reason, self._reloaded_at_s = "", float("-inf")  # it reads what there is
            deps.unit.start(Deadline(START_S, deps.clock))
        elif action.kind is ActionKind.STOP:
            _LOG.info("stopping nvidia-imex", why=action.why)
            deps.unit.stop(Deadline(STOP_S, deps.clock))
        elif run is not None and spec is not None and deps.store.write_hosts(run, spec):
            # Without the controller's word (a FabricNode that was deleted, a file that was damaged) its peers stay.
            self.request_reload(action.why)

    def request_reload(self, why: str) -> None:
        """It is to read names and certificates again, at the next ``settle``."""
        self._reload_reason = why

    def send_due_reload(self) -> float | None:
        """Tell the running daemon to read again if that is owed and it would heed; seconds until it would.

        None: nothing is owed any more. What fails is owed still.
        """
        deps = self._deps
        if not self._reload_reason:
            return None
        left_s = self._reloaded_at_s + RELOAD_S - deps.clock.monotonic()
        if left_s > 0:
            return left_s
        _LOG.info("telling nvidia-imex to connect again", v=1, why=self._reload_reason)
        deps.unit.reload(Deadline(LOOK_S, deps.clock))
        self._reload_reason, self._reloaded_at_s = "", deps.clock.monotonic()
        deps.store.mark_reloaded()
        return None

    def last_log_lines(self, invocation_id: str) -> str:
        """What it wrote last. Never raises."""
        return self._deps.unit.last_log_lines(invocation_id, Deadline(LOOK_S, self._deps.clock))
