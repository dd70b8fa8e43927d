"""Effects in records: which were started, which may be undone, what to restore.

Called by ``transaction``, which holds the locks of the claim and of its holds. A plan is on disk before its effects are
applied. A prepared claim whose effects are applied again (they were lost with the NVIDIA driver) stays "completed"
meanwhile: its record names them already, and verification fails until all of them are in effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from nvdra_core.errors import FileError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Deadline
from nvdra_node.checkpoint.claim import Claim
from nvdra_node.checkpoint.model import Record, RecordState
from nvdra_node.kubeletplugin.claims import downgrade
from nvdra_node.kubeletplugin.claims import effects as effect_rules
from nvdra_node.kubeletplugin.claims.dependencies import Dependencies
from nvdra_node.kubeletplugin.driver import Effect, Plan

_LOG = log.get(__name__)


class Journal:
    """Effects in the records of one driver."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    def start(self, claim: Claim, plan: Plan, old: Record | None, deadline: Deadline) -> Record:
        """Undo what an earlier attempt did and this plan does not need; journal what will be applied."""
        kept = self._undo_leftovers(plan, old, deadline)
        started = Record(
            uid=claim.ref.uid,
            namespace=claim.ref.namespace,
            name=claim.ref.name,
            state=RecordState.STARTED,
            boot_id=self._deps.boot_id,
            effects=tuple(self._capture(effect, kept, deadline) for effect in plan.effects),
            holds=plan.holds,
            config_key=plan.config_key,
            claim=claim.allocation,
            unknown=old.unknown if old else {},
        )
        if old is not None and self._is_repeated(plan, old):
            if started.effects != old.effects:
                self._deps.records.put(replace(old, effects=started.effects))
        elif started.effects and started != old:
            self._deps.records.put(started)
        return started

    def apply(self, started: Record, deadline: Deadline) -> Record:
        """Apply the effects in order; returns the record with their outcomes.

        An outcome is on disk before the next effect is applied; the last one is written with the completed record.
        """
        effects = list(started.effects)
        for place, effect in enumerate(started.effects):
            outcome = self._deps.driver.apply(effect, deadline)
            effects[place] = effect_rules.with_outcome(effect, outcome)
            written = self._deps.records.get(started.uid)
            if effects[place] != effect and place + 1 < len(effects) and written is not None:
                self._deps.records.put(replace(written, effects=tuple(effects)))
        return replace(started, effects=tuple(effects))

    def demote(self, record: Record) -> None:
        """Mark a half-undone claim as started. A full disk does not stop an unprepare: ``verify`` guards as well."""
        if record.state is RecordState.COMPLETED:
            try:
                self._deps.records.put(replace(record, state=RecordState.STARTED))
            except FileError as error:
                _LOG.warning("cannot journal the undoing; undoing anyway", error, claim=record.ref)

    def releasable(self, record: Record) -> Sequence[Effect]:
        """Those of a record's effects that must be undone with it, last first."""
        others = self.others(record.uid, record.device_names, record.holds)
        effects = self._deps.driver.release(record, others)
        is_of_this_boot = record.boot_id == self._deps.boot_id
        return [effect for effect in effects if is_of_this_boot or effect.get("persistent")]

    def others(self, uid: str, devices: Iterable[str], holds: Iterable[str]) -> tuple[Record, ...]:
        """Records of other claims with these devices or holds, written in this boot: earlier ones hold nothing."""
        return tuple(
            record
            for record in self._deps.records.sharing(uid, devices, holds)
            if downgrade.is_of_boot(record, self._deps.boot_id)
        )

    def _undo_leftovers(self, plan: Plan, old: Record | None, deadline: Deadline) -> list[Effect]:
        """Undo what ``old`` did and the plan does not need; its effects whose captured state is still valid."""
        if old is None:
            return []
        for effect in self.releasable(old):
            if plan.restart or effect_rules.find(effect, plan.effects) is None:
                self._deps.driver.undo(effect, deadline)
        if plan.restart or old.boot_id != self._deps.boot_id:
            return []
        return list(old.effects)

    def _is_repeated(self, plan: Plan, old: Record) -> bool:
        """Whether a completed claim has the same effects applied again."""
        return (
            old.state is RecordState.COMPLETED
            and old.boot_id == self._deps.boot_id
            and not plan.restart
            and old.holds == plan.holds
            and list(map(effect_rules.identity, old.effects))
            == list(map(effect_rules.identity, plan.effects))
        )

    def _capture(self, effect: Effect, kept: Iterable[Effect], deadline: Deadline) -> Effect:
        """The effect with the state to restore, taken over from ``kept`` where that has it."""
        if effect_rules.ORIGINAL not in effect:
            effect = effect_rules.find(effect, kept) or effect
        return self._deps.driver.capture(effect, deadline)
