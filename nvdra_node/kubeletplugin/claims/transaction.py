"""Prepares and unprepares one claim, completely or repeatably (see docs/dev/claim.md). Called by the kubelet's service
and ``sweep``.

prepare:   read claim -> plan -> settle -> journal "started" -> apply* -> finish -> verify -> CDI file
           -> journal "completed" -> reply
unprepare: release -> undo*, last first -> remove CDI file -> remove record

A process that dies between any two of these is repaired by the same calls. A plan without effects skips "started": one
record write. The API is read outside the locks: an unprepare that arrives meanwhile wins, and the prepare fails.
Retries are made here only: a NotReadyError with ``retry_after_s`` is retried inside the deadline, without locks.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from nvdra_core.errors import (
    ApiError,
    ClaimError,
    DeadlineError,
    DeviceMovedError,
    EffectLostError,
    FileError,
    HostError,
    NotReadyError,
    StaleClaimError,
)
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Deadline
from nvdra_node.checkpoint.claim import Claim, ClaimRef, ClaimUID
from nvdra_node.checkpoint.model import PreparedDevice, Record, RecordState
from nvdra_node.checkpoint.store import is_valid_uid
from nvdra_node.kubeletplugin.claims import downgrade, overlap
from nvdra_node.kubeletplugin.claims.dependencies import Dependencies
from nvdra_node.kubeletplugin.claims.journal import Journal
from nvdra_node.kubeletplugin.claims.locks import Locks
from nvdra_node.kubeletplugin.claims.reader import why_stale
from nvdra_node.kubeletplugin.driver import Plan

_LOG = log.get(__name__)

REPEAT_READ_S = 3.0
"""For reading a claim that is prepared already: after that, its record suffices."""


class _Attempt:
    """One prepare call. ``claim`` stays None when the API did not reply and the record suffices."""

    __slots__ = ("began_s", "claim", "has_read", "is_overtaken")

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.is_overtaken = False
        """The claim was unprepared since the call began."""
        self.has_read = False
        self.claim: Claim | None = None


class Transaction:
    """Prepares and unprepares claims. Thread safe: calls for different GPUs run in parallel."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._journal = Journal(deps)
        self._locks = Locks(deps.clock)
        self._attempts: dict[str, set[_Attempt]] = {}
        """By claim UID."""
        self._attempts_lock = threading.Lock()

    def prepare(self, ref: ClaimRef, deadline: Deadline) -> tuple[PreparedDevice, ...]:
        """Prepare a claim, or repeat the reply for a prepared one. Raises NvdraError; the call may be repeated."""
        _check_uid(ref)
        try:
            with self._attempt(ref.uid) as attempt:
                while (reply := self._prepare_or_wait(ref, attempt, deadline)) is None:
                    pass
                return reply
        finally:
            self._deps.wait_events.done(ref)

    def unprepare(self, ref: ClaimRef, deadline: Deadline) -> None:
        """Undo all that was done for a claim; success when there is nothing. Needs neither the API nor, for plain
        GPUs, the NVIDIA driver."""
        _check_uid(ref)
        with self._attempts_lock:
            for attempt in self._attempts.get(ref.uid, ()):
                attempt.is_overtaken = True
        with self._locks.held((_claim_key(ref),), str(ref), deadline):
            self._unprepare_claim(ref, deadline)

    def unprepare_stale(self, ref: ClaimRef, deadline: Deadline) -> StaleClaimError | None:
        """Unprepare a claim if the API says that nothing may be prepared for it; returns why, None: it exists.

        The API is read under the claim's lock, so a claim that is allocated again meanwhile is not unprepared.
        Raises NvdraError.
        """
        with self._locks.held((_claim_key(ref),), "sweep", deadline):
            stale = why_stale(self._deps.claims, ref, deadline)
            if stale is not None:
                self._unprepare_claim(ref, deadline)
            return stale

    def remove_stray_file(self, uid: ClaimUID, deadline: Deadline) -> bool:
        """Remove the CDI file of a claim without a record; False when it has one by now."""
        ref = ClaimRef("?", "?", uid)
        with self._locks.held((_claim_key(ref),), "sweep", deadline):
            return self._deps.records.get(uid) is None and self._deps.specs.remove(uid)

    def renew_file(self, record: Record, deadline: Deadline) -> bool:
        """Adapt a prepared claim to the NVIDIA driver that is loaded now: its CDI file, and effects that were lost with
        an earlier one; whether anything was changed.

        A container of a running pod may restart after the NVIDIA driver was replaced, without a prepare.
        Raises NvdraError.
        """
        with self._locks.held((_claim_key(record.ref),), "renewal", deadline):
            current = self._deps.records.get(record.uid)
            if current is None or not self._is_reply(current):
                return False
            try:
                self._verify(current, deadline)
            except EffectLostError as error:
                # The file first: it does not need what the effects need.
                self._repair_file(current, deadline)
                _LOG.warning(
                    "effects of a prepared claim lost; applying again", error, uid=record.uid
                )
                self._prepare_claim(current.to_claim(), current, deadline)
                return True
            return self._repair_file(current, deadline)

    def settle(self, timeout_s: float) -> bool:
        """Undo what ended claims left on devices that did not respond; whether all of it is undone. Raises NvdraError.

        A device on which another claim has effects by now waits until that claim ends.
        """
        driver, is_done = self._deps.driver, True
        for hold in driver.owed():
            deadline = Deadline(timeout_s, self._deps.clock)
            with self._locks.held((hold,), "settling", deadline):
                others = self._journal.others("", (), (hold,))
                try:
                    driver.settle(_without_effects((hold,), others), deadline)
                except (HostError, NotReadyError) as error:
                    _LOG.warning("effects of an ended claim cannot be undone", error, hold=hold)
                    is_done = False
        return is_done and not driver.owed()

    def _unprepare_claim(self, ref: ClaimRef, deadline: Deadline) -> None:
        """The caller holds the claim's lock."""
        record = downgrade.record_to_undo(ref.uid, self._deps)
        if record is None:
            self._deps.specs.remove(ref.uid)
            return
        with self._locks.held(record.holds, str(ref), deadline):
            if effects := self._journal.releasable(record):
                self._journal.demote(record)
            for effect in effects:
                self._deps.driver.undo(effect, deadline)
            self._deps.specs.remove(ref.uid)
            self._deps.records.remove(ref.uid)

    def _prepare_or_wait(
        self, ref: ClaimRef, attempt: _Attempt, deadline: Deadline
    ) -> tuple[PreparedDevice, ...] | None:
        """One try; None: it is to be repeated now."""
        clock = self._deps.clock
        try:
            return self._prepare_once(ref, attempt, deadline)
        except NotReadyError as error:
            self._deps.wait_events.waiting(ref, str(error), clock.monotonic() - attempt.began_s)
            pause_s = error.retry_after_s
            if pause_s is None or pause_s >= deadline.remaining_s():
                raise
            _LOG.info("not ready; retrying", v=2, claim=ref, pause_s=pause_s, error=str(error))
            if clock.wait(self._deps.stopping, pause_s):
                raise
        return None

    def _prepare_once(
        self, ref: ClaimRef, attempt: _Attempt, deadline: Deadline
    ) -> tuple[PreparedDevice, ...]:
        if not attempt.has_read:
            # Once for all tries: a node that waits for its driver must not read the API twice a second.
            attempt.claim = self._read_claim(ref, deadline)
            attempt.has_read = True
        claim = attempt.claim
        with self._locks.held((_claim_key(ref),), str(ref), deadline):
            record = self._deps.records.get(ref.uid)
            if record is not None and self._is_reply(record):
                return self._repeat(claim, record, deadline)
            if claim is None or attempt.is_overtaken:
                raise StaleClaimError(f"claim {ref} was unprepared while it was being prepared")
            if reply := downgrade.repeated_reply(claim, self._deps):
                return reply
            return self._prepare_claim(claim, record, deadline)

    def _read_claim(self, ref: ClaimRef, deadline: Deadline) -> Claim | None:
        """The claim from the API, else from the record of an earlier attempt; None: that record has the reply."""
        record = self._deps.records.get(ref.uid)
        if record is None or (record.claim is None and not self._is_reply(record)):
            return self._deps.claims.fetch(ref, deadline)
        has_reply = self._is_reply(record)
        try:
            # At most half of the time: the other half is for preparing without the API.
            limit_s = min(deadline.remaining_s() / 2, REPEAT_READ_S if has_reply else math.inf)
            return self._deps.claims.fetch(ref, Deadline(limit_s, self._deps.clock))
        except (ApiError, DeadlineError) as error:
            _LOG.warning("claim not readable; using its record", error, claim=ref)
            return None if has_reply else record.to_claim()

    def _repeat(
        self, claim: Claim | None, record: Record, deadline: Deadline
    ) -> tuple[PreparedDevice, ...]:
        """Reply for a claim that is prepared. The caller holds the claim's lock."""
        if claim is not None and not _is_of(record, claim):
            # Again, under the lock: the record may be from a later read of the claim.
            claim = self._deps.claims.fetch(record.ref, deadline)
            if not _is_of(record, claim):
                self._undo_old_allocation(claim, record, deadline)
                return self._prepare_claim(claim, None, deadline)
        if self._is_still_prepared(record, deadline):
            return record.devices
        return self._prepare_claim(record.to_claim(), record, deadline)

    def _is_reply(self, record: Record) -> bool:
        """Whether a record contains the reply to a prepare: it is completed, and of this boot."""
        return record.state is RecordState.COMPLETED and record.boot_id == self._deps.boot_id

    def _is_still_prepared(self, record: Record, deadline: Deadline) -> bool:
        """Check what a completed record promises; False: its effects must be applied again."""
        try:
            self._verify(record, deadline)
        except DeviceMovedError:
            raise
        except (HostError, NotReadyError) as error:
            if not record.effects:
                raise
            _LOG.warning("prepared claim changed; applying again", error, claim=record.ref)
            return False
        if self._repair_file(record, deadline):
            _LOG.warning("missing or changed CDI file written again", claim=record.ref)
        return True

    def _verify(self, record: Record, deadline: Deadline) -> None:
        """See Driver.verify. A CDI file that names another claim's device by now is removed: the container runtime
        would use it unchecked."""
        try:
            self._deps.driver.verify(record, deadline)
        except DeviceMovedError:
            self._deps.specs.remove(record.uid)
            raise

    def _repair_file(self, record: Record, deadline: Deadline) -> bool:
        """Write the CDI file of a verified record unless it is up to date."""
        edits = self._deps.driver.edits(record)
        return self._deps.specs.repair(record.uid, edits, deadline)

    def _undo_old_allocation(self, claim: Claim, record: Record, deadline: Deadline) -> None:
        """Undo what was prepared for an earlier allocation of the claim. The caller holds the claim's lock.

        No container uses it: the kubelet prepares only claims that it considers unprepared, and the API server
        deallocates only what no pod has reserved.
        """
        what = (
            f"claim {claim.ref} was allocated {', '.join(claim.device_names)} in place of"
            f" {', '.join(record.to_claim().device_names)}"
        )
        _LOG.warning(f"{what}; preparing it again")
        try:
            self._unprepare_claim(claim.ref, deadline)
        except HostError as error:
            raise HostError(
                f"{what}, whose preparation cannot be undone: {error}; it is tried again; if that does not"
                " help, find on this node what uses the device, or drain and reboot it"
            ) from error

    def _prepare_claim(
        self, claim: Claim, record: Record | None, deadline: Deadline
    ) -> tuple[PreparedDevice, ...]:
        """Plan and carry out. The caller holds the claim's lock."""
        driver = self._deps.driver
        old_holds = record.holds if record else ()
        others = self._journal.others(claim.ref.uid, claim.device_names, ())
        plan = driver.plan(claim, others)
        holds = {*plan.holds, *old_holds}
        with self._locks.held(holds, str(claim.ref), deadline):
            others_now = self._journal.others(claim.ref.uid, claim.device_names, plan.holds)
            if others_now != others:
                plan = driver.plan(claim, others_now)
            if not holds.issuperset(plan.holds):
                raise NotReadyError(f"devices of claim {claim.ref} just changed", retry_after_s=0.0)
            overlap.check(claim, plan, others_now)
            driver.settle(_without_effects(plan.holds, others_now), deadline)
            return self._carry_out(claim, plan, record, deadline)

    def _carry_out(
        self, claim: Claim, plan: Plan, old: Record | None, deadline: Deadline
    ) -> tuple[PreparedDevice, ...]:
        """The caller holds the locks of the claim and of all holds, old and new."""
        driver = self._deps.driver
        started = self._journal.start(claim, plan, old, deadline)
        applied = self._journal.apply(started, deadline)
        prepared = driver.finish(claim, plan, applied.effects)
        completed = replace(
            applied,
            state=RecordState.COMPLETED,
            devices=prepared.devices,
            cdi=prepared.spec.without_contents(),
        )
        driver.verify(completed, deadline)
        self._deps.specs.write(claim.ref.uid, prepared.spec, deadline)
        try:
            self._deps.records.put(completed)
        except FileError:
            if self._deps.records.get(claim.ref.uid) is None:
                with contextlib.suppress(FileError):  # then the sweep removes it
                    self._deps.specs.remove(claim.ref.uid)
            raise
        return completed.devices

    @contextmanager
    def _attempt(self, uid: str) -> Iterator[_Attempt]:
        attempt = _Attempt(self._deps.clock.monotonic())
        with self._attempts_lock:
            self._attempts.setdefault(uid, set()).add(attempt)
        try:
            yield attempt
        finally:
            with self._attempts_lock:
                self._attempts[uid].discard(attempt)
                if not self._attempts[uid]:
                    del self._attempts[uid]


def _is_of(record: Record, claim: Claim) -> bool:
    """Whether a record is of the allocation that the claim has now; also when it does not contain one."""
    return record.claim is None or record.claim.is_same(claim)


def _without_effects(holds: Iterable[str], others: Iterable[Record]) -> list[str]:
    """The holds on which no other claim has effects."""
    used = {hold for other in others if other.effects for hold in other.holds}
    return [hold for hold in holds if hold not in used]


def _claim_key(ref: ClaimRef) -> str:
    return f"claim:{ref.uid}"


def _check_uid(ref: ClaimRef) -> None:
    if not is_valid_uid(ref.uid):
        raise ClaimError(f"claim {ref}: its uid may have letters, digits and dashes only")
