"""When the next reconcile pass is due without a trigger. Called by ``supervisor``.

Changes and the daemon's end trigger a pass; polling is left for a starting daemon to become READY, and for a running
one to still answer.
"""

from __future__ import annotations

from nvdra_core.api.fabric import ImexState
from nvdra_node.imex.model import ActionKind, Decision, Mode, Situation, UnitActivity

FIRST_POLL_S = 0.1
"""First interval for a starting daemon."""
POLL_GROWTH = 1.25
"""Ratio of intervals: a claim waits at most that much longer than its daemon starts."""
STARTING_POLL_S = 2.0
STEADY_POLL_S = 5.0
IDLE_POLL_S = 30.0


class ReconcileSchedule:
    """Intervals of one loop."""

    def __init__(self) -> None:
        self._poll_s = FIRST_POLL_S

    def next_in_s(
        self, decision: Decision, situation: Situation, reload_in_s: float | None
    ) -> float:
        """Seconds until the pass after the one that applied ``decision``.

        ``reload_in_s``: until a due reload is possible.
        """
        kinds = {action.kind for action in decision.actions}
        if ActionKind.START in kinds:
            self._poll_s = FIRST_POLL_S
        if kinds & {ActionKind.START, ActionKind.STOP}:
            return 0.0
        pauses = [IDLE_POLL_S]
        pauses += [pause for pause in (decision.wake_in_s, reload_in_s) if pause is not None]
        unit = situation.unit
        is_waiting = any(not holder.is_admitted for holder in situation.holders)
        is_hosted = situation.policy.mode is Mode.HOST_MANAGED
        may_start = is_waiting if is_hosted else unit.is_running
        is_starting = may_start and situation.imex is not ImexState.READY
        if is_starting or unit.activity is UnitActivity.DEACTIVATING:
            pauses.append(self._poll_s)
            self._poll_s = min(self._poll_s * POLL_GROWTH, STARTING_POLL_S)
        else:
            self._poll_s = FIRST_POLL_S
            if unit.activity is not UnitActivity.INACTIVE or is_waiting or is_hosted:
                pauses.append(STEADY_POLL_S)
        return max(0.0, min(pauses))
