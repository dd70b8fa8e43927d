"""The daemon as the supervisor handles it: one look, one action at a time. Called by ``supervisor`` alone."""

from __future__ import annotations

from collections.abc import Callable

from nvdra_core import log
from nvdra_core.api.fabric import FabricNodeSpec, ImexState
from nvdra_core.clock import Clock, Deadline
from nvdra_core.value import Value
from nvdra_node.imex.ctl import CtlDoor
from nvdra_node.imex.model import Action, ActionKind, Mode, Policy, Unit, UnitActivity
from nvdra_node.imex.store import Store
from nvdra_node.imex.unit import Look, UnitDoor

_LOG = log.get(__name__)

LOOK_S = 5.0
STATE_S = 2.0
START_S = 15.0
STOP_S = 40.0


class Doors(Value, kw_only=True):
    """What the supervisor works with."""

    unit: UnitDoor
    ctl: CtlDoor
    store: Store
    clock: Clock
    policy: Policy
    boot_id: str
    address: str = ""
    """Of this node for its peers; empty: none was found."""
    has_certificate: Callable[[], bool] = lambda: False


class Daemon:
    """Looks and acts through the doors. All raise HostError."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    def look(self, *, was_ready: bool) -> tuple[Look, ImexState]:
        """The unit, and what its daemon says; about one and the same incarnation."""
        doors = self._doors
        if doors.policy.mode is Mode.HOST_MANAGED:
            return Look(Unit()), doors.ctl.state(Deadline(STATE_S, doors.clock))
        look = doors.unit.look(Deadline(LOOK_S, doors.clock))
        if look.unit.activity is not UnitActivity.ACTIVE:
            return look, ImexState.UNSET
        imex = doors.ctl.state(Deadline(STATE_S, doors.clock))
        if imex is ImexState.READY and not was_ready:
            again = doors.unit.look(Deadline(LOOK_S, doors.clock))
            if again.unit != look.unit:
                return again, ImexState.UNSET
        return look, imex

    def act(self, action: Action, spec: FabricNodeSpec | None) -> None:
        """Carry out one action."""
        doors, run = self._doors, action.run
        if action.kind is ActionKind.CLEAR_RECOVERY:
            doors.store.clear_recovery()
        elif action.kind is ActionKind.WRITE_CONFIG and run is not None:
            doors.store.write_config(run, spec)
        elif action.kind is ActionKind.START:
            _LOG.info("starting nvidia-imex", why=action.why, run=run)
            doors.unit.start(Deadline(START_S, doors.clock))
        elif action.kind is ActionKind.STOP:
            _LOG.info("stopping nvidia-imex", why=action.why)
            doors.unit.stop(Deadline(STOP_S, doors.clock))
        elif run is not None and doors.store.write_hosts(run, spec):
            self.reload(action.why)

    def reload(self, why: str) -> None:
        """Let it read names and certificates again."""
        _LOG.info("telling nvidia-imex to connect again", v=1, why=why)
        self._doors.unit.reload(Deadline(LOOK_S, self._doors.clock))

    def last_words(self, invocation_id: str) -> str:
        """What it wrote last. Never raises."""
        return self._doors.unit.last_words(invocation_id, Deadline(LOOK_S, self._doors.clock))
