"""What happens to one claim: prepare and unprepare, whole or repeatable. Called by ``service`` and ``sweep``.

prepare:   read claim -> plan -> settle -> journal "started" -> apply* -> finish -> verify -> CDI file
           -> journal "completed" -> reply
unprepare: release -> undo*, last first -> remove CDI file -> remove record

A process that dies between any two of these is repaired by the same calls: before "started" nothing was done; after it
the record says what may have been; a CDI file without a record harms nobody and is swept. A plan without effects
changes nothing but the claim's own CDI file and skips "started": one record write.

A prepared claim may have been allocated anew since, under its UID: what was done is undone first, as by an unprepare.
No container uses it, since the kubelet asks only for claims that it holds for unprepared, and the API server lets an
allocation go only when no pod has reserved it.

The API is read outside the locks. An unprepare that arrives meanwhile wins: the prepare gives up when it sees it.
Retries live here alone: a NotReadyError that says when to try again is tried again inside the deadline, without locks.
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
from nvdra_node.cdi import spec
from nvdra_node.checkpoint.claim import Claim, ClaimRef, ClaimUID
from nvdra_node.checkpoint.model import PreparedDevice, Record, RecordState
from nvdra_node.checkpoint.store import is_valid_uid
from nvdra_node.kubeletplugin.claims import claimjson, downgrade, overlap
from nvdra_node.kubeletplugin.claims.dependencies import Dependencies
from nvdra_node.kubeletplugin.claims.journal import Journal, record_ref
from nvdra_node.kubeletplugin.claims.locks import Locks
from nvdra_node.kubeletplugin.claims.stale import why_gone
from nvdra_node.kubeletplugin.driver import Plan

_log = log.get(__name__)

REPEAT_READ_S = 3.0
"""For reading a claim that is prepared already: without an answer, its record answers."""


class _Attempt:
    """A prepare under way. ``overtaken``: the claim was unprepared since it began. ``claim``: as it was read, if it
    could be."""

    __slots__ = ("claim", "has_read", "overtaken")

    def __init__(self) -> None:
        self.overtaken = False
        self.has_read = False
        self.claim: Claim | None = None


class Transaction:
    """Prepares and unprepares claims. Thread safe: calls for different GPUs run side by side."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._journal = Journal(deps)
        self._locks = Locks(deps.clock)
        self._attempts: dict[str, set[_Attempt]] = {}
        self._attempts_lock = threading.Lock()

    def prepare(self, ref: ClaimRef, deadline: Deadline) -> tuple[PreparedDevice, ...]:
        """Prepare a claim, or answer again what was prepared. Raises NvdraError; then the call may be repeated."""
        _check_uid(ref)
        try:
            with self._attempt(ref.uid) as attempt:
                return self._prepare_until(ref, attempt, deadline)
        finally:
            self._deps.wait_events.done(ref)

    def _prepare_until(
        self, ref: ClaimRef, attempt: _Attempt, deadline: Deadline
    ) -> tuple[PreparedDevice, ...]:
        """Try until it is done or nothing can come of it, and say what is waited for."""
        began_s = self._deps.clock.monotonic()
        while True:
            result = self._prepare_or_reason(ref, attempt, deadline)
            if not isinstance(result, NotReadyError):
                return result
            waited_s = self._deps.clock.monotonic() - began_s
            self._deps.wait_events.waits(ref, str(result), waited_s)
            self._pause(result, deadline)

    def unprepare(self, ref: ClaimRef, deadline: Deadline) -> None:
        """Take back all that was done for a claim; success when there is nothing. Asks neither the API nor, for plain
        GPUs, the driver."""
        _check_uid(ref)
        with self._attempts_lock:
            for attempt in self._attempts.get(ref.uid, ()):
                attempt.overtaken = True
        with self._locks.held((_claim_key(ref),), str(ref), deadline):
            self._unprepare_claim(ref, deadline)

    def unprepare_gone(self, ref: ClaimRef, deadline: Deadline) -> StaleClaimError | None:
        """Unprepare a claim if the API says that nothing may be prepared for it; returns what it said, None: it lives.

        The API is asked under the claim's lock: a claim that was allocated anew and answered from its old record
        meanwhile is seen, and one that is allocated from now on is prepared anew. Raises NvdraError.
        """
        with self._locks.held((_claim_key(ref),), "sweep", deadline):
            gone = why_gone(self._deps.claims, ref, deadline)
            if gone is not None:
                self._unprepare_claim(ref, deadline)
            return gone

    def remove_stray_file(self, uid: ClaimUID, deadline: Deadline) -> bool:
        """Remove the CDI file of a claim that has no record; False when it got one meanwhile."""
        ref = ClaimRef("?", "?", uid)
        with self._locks.held((_claim_key(ref),), "sweep", deadline):
            return self._deps.records.get(uid) is None and self._deps.specs.remove(uid)

    def renew_file(self, record: Record, deadline: Deadline) -> bool:
        """Bring a prepared claim up to the driver that is loaded now: its CDI file, and effects that went with an
        earlier driver; whether something had to be done.

        A container of a running pod may start again after the driver was replaced, and nobody prepares the claim then.
        Raises NvdraError.
        """
        with self._locks.held((_claim_key(record_ref(record)),), "renewal", deadline):
            current = self._deps.records.get(record.uid)
            if current is None or not self._is_answer(current):
                return False
            try:
                self._verify(current, deadline)
            except EffectLostError as error:
                # The file first: it does not need what the effects need.
                self._repair_file(current, deadline)
                _log.warning("effects of a prepared claim: applying again", error, uid=record.uid)
                self._prepare_claim(claimjson.decode(current), current, deadline)
                return True
            return self._repair_file(current, deadline)

    def settle(self, timeout_s: float) -> bool:
        """Undo what ended claims left on devices that did not answer; whether all of it is undone. Raises NvdraError.

        A device on which another claim has effects meanwhile waits until that claim has ended.
        """
        driver, is_done = self._deps.driver, True
        for hold in driver.owed():
            deadline = Deadline(timeout_s, self._deps.clock)
            with self._locks.held((hold,), "settling", deadline):
                others = self._journal.others("", (), (hold,))
                try:
                    driver.settle(_without_effects((hold,), others), deadline)
                except (HostError, NotReadyError) as error:
                    _log.warning("effects of an ended claim cannot be undone", error, hold=hold)
                    is_done = False
        return is_done and not driver.owed()

    def _unprepare_claim(self, ref: ClaimRef, deadline: Deadline) -> None:
        """The caller holds the claim's lock."""
        record = downgrade.to_undo(ref.uid, self._deps)
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

    def _prepare_or_reason(
        self, ref: ClaimRef, attempt: _Attempt, deadline: Deadline
    ) -> tuple[PreparedDevice, ...] | NotReadyError:
        try:
            return self._prepare_once(ref, attempt, deadline)
        except NotReadyError as error:
            return error

    def _prepare_once(
        self, ref: ClaimRef, attempt: _Attempt, deadline: Deadline
    ) -> tuple[PreparedDevice, ...]:
        record = self._deps.records.get(ref.uid)
        if not attempt.has_read:
            # Once for all tries: nodes that wait for their drivers must not ask the API twice a second.
            attempt.claim = self._read_claim(ref, record, deadline)
            attempt.has_read = True
        claim = attempt.claim
        with self._locks.held((_claim_key(ref),), str(ref), deadline):
            record = self._deps.records.get(ref.uid)
            if record is not None and self._is_answer(record):
                if claim is not None and not claimjson.is_of(record, claim):
                    # Again, under the lock: the record may be from a later read than ours.
                    claim = self._deps.claims.fetch(ref, deadline)
                if claim is not None and not claimjson.is_of(record, claim):
                    self._take_back(claim, record, deadline)
                    return self._prepare_claim(claim, None, deadline)
                if self._answer_holds(record, deadline):
                    return record.devices
                claim = claimjson.decode(record)
            elif claim is None or attempt.overtaken:
                raise StaleClaimError(f"claim {ref} was unprepared while it was being prepared")
            elif found := downgrade.answer(claim, self._deps):
                return found
            return self._prepare_claim(claim, record, deadline)

    def _is_answer(self, record: Record | None) -> bool:
        """Whether a record may answer a prepare without more than a check: completed, and in this boot."""
        return (
            record is not None
            and record.state is RecordState.COMPLETED
            and record.boot_id == self._deps.boot_id
        )

    def _answer_holds(self, record: Record, deadline: Deadline) -> bool:
        """Check what a completed record promises; False: its effects must be applied again."""
        ref = record_ref(record)
        try:
            self._verify(record, deadline)
        except DeviceMovedError:
            raise
        except (HostError, NotReadyError) as error:
            if not record.effects:
                raise
            _log.warning(
                "a prepared claim is not as it should be: applying again", error, claim=ref
            )
            return False
        if self._repair_file(record, deadline):
            _log.warning("the CDI file was gone or changed: written again", claim=ref)
        return True

    def _verify(self, record: Record, deadline: Deadline) -> None:
        """See Driver.verify. A file that names another claim's device by now is removed: the container runtime reads
        it without asking."""
        try:
            self._deps.driver.verify(record, deadline)
        except DeviceMovedError:
            self._deps.specs.remove(record.uid)
            raise

    def _repair_file(self, record: Record, deadline: Deadline) -> bool:
        """Write the CDI file of a verified record again unless it is as it would be written now."""
        edits = self._deps.driver.edits(record)
        return self._deps.specs.repair(record.uid, edits, deadline)

    def _take_back(self, claim: Claim, record: Record, deadline: Deadline) -> None:
        """Undo what was prepared for an allocation that is no more. The caller holds the claim's lock."""
        what = (
            f"claim {claim.ref} was allocated {claimjson.names(claim)} in the place of"
            f" {claimjson.names(claimjson.decode(record))}"
        )
        _log.warning(f"{what}: preparing it anew")
        try:
            self._unprepare_claim(claim.ref, deadline)
        except HostError as error:
            raise HostError(
                f"{what}, which cannot be taken back: {error}; it is tried again; if that does not"
                " help, see on this node what uses the device, or drain and reboot it"
            ) from error

    def _read_claim(self, ref: ClaimRef, record: Record | None, deadline: Deadline) -> Claim | None:
        """The claim from the API; when that does not answer, from the record of an earlier attempt, or None for a
        record that is the answer itself."""
        is_answer = self._is_answer(record)
        if record is None or not (record.claim or is_answer):
            return self._deps.claims.fetch(ref, deadline)
        try:
            # At most half of the time: the other half is for preparing with what we have.
            limit_s = min(deadline.remaining_s() / 2, REPEAT_READ_S if is_answer else math.inf)
            return self._deps.claims.fetch(ref, Deadline(limit_s, self._deps.clock))
        except (ApiError, DeadlineError) as error:
            _log.warning("claim not readable: using what its record says", error, claim=ref)
            return None if is_answer else claimjson.decode(record)

    def _prepare_claim(
        self, claim: Claim, record: Record | None, deadline: Deadline
    ) -> tuple[PreparedDevice, ...]:
        """Plan and carry out. The caller holds the claim's lock."""
        driver = self._deps.driver
        old_holds = record.holds if record else ()
        devices = [result.device for result in claim.results]
        others = self._journal.others(claim.ref.uid, devices, ())
        plan = driver.plan(claim, others)
        holds = {*plan.holds, *old_holds}
        with self._locks.held(holds, str(claim.ref), deadline):
            others_now = self._journal.others(claim.ref.uid, devices, plan.holds)
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
        """Make the plan true. The caller holds the locks of the claim and of all holds, old and new."""
        driver = self._deps.driver
        started = self._journal.start(claim, plan, old, deadline)
        applied = self._journal.apply(started, deadline)
        prepared = driver.finish(claim, plan, applied.effects)
        completed = replace(
            applied,
            state=RecordState.COMPLETED,
            devices=prepared.devices,
            cdi=spec.to_json(prepared.spec),
        )
        driver.verify(completed, deadline)
        self._deps.specs.write(claim.ref.uid, completed.cdi, deadline)
        try:
            self._deps.records.put(completed)
        except FileError:
            if self._deps.records.get(claim.ref.uid) is None:
                with contextlib.suppress(FileError):  # then the sweep removes it
                    self._deps.specs.remove(claim.ref.uid)
            raise
        return completed.devices

    def _pause(self, error: NotReadyError, deadline: Deadline) -> None:
        """Wait as long as ``error`` says, or raise it when it does not say or there is no time."""
        pause_s = error.retry_after_s
        if pause_s is None or pause_s >= deadline.remaining_s():
            raise error
        _log.info("trying again", v=2, pause_s=pause_s, error=str(error))
        if self._deps.clock.wait(self._deps.stopping, pause_s):
            raise error

    @contextmanager
    def _attempt(self, uid: str) -> Iterator[_Attempt]:
        attempt = _Attempt()
        with self._attempts_lock:
            self._attempts.setdefault(uid, set()).add(attempt)
        try:
            yield attempt
        finally:
            with self._attempts_lock:
                self._attempts[uid].discard(attempt)
                if not self._attempts[uid]:
                    del self._attempts[uid]


def _without_effects(holds: Iterable[str], others: Iterable[Record]) -> list[str]:
    """The holds on which no other claim has effects."""
    used = {hold for other in others if other.effects for hold in other.holds}
    return [hold for hold in holds if hold not in used]


def _claim_key(ref: ClaimRef) -> str:
    return f"claim:{ref.uid}"


def _check_uid(ref: ClaimRef) -> None:
    if not is_valid_uid(ref.uid):
        raise ClaimError(f"claim {ref}: its uid may have letters, digits and dashes only")
