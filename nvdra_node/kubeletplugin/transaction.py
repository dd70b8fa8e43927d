"""What happens to one claim: prepare and unprepare, whole or repeatable. Called by ``service`` and ``sweep``.

prepare:   read claim -> plan -> journal "started" -> apply* -> finish -> verify -> CDI file
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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from nvdra_core import log
from nvdra_core.clock import Clock, Deadline
from nvdra_core.errors import (
    ApiError,
    ClaimError,
    DeadlineError,
    FileError,
    HostError,
    NotReadyError,
    StaleClaimError,
)
from nvdra_core.value import Value, field, replace
from nvdra_node.cdi import spec
from nvdra_node.cdi.store import SpecFiles
from nvdra_node.checkpoint.model import PreparedDevice, Record, RecordState
from nvdra_node.checkpoint.store import RecordStore, is_valid_uid
from nvdra_node.kubeletplugin import claimjson, downgrade, overlap
from nvdra_node.kubeletplugin import effects as effect_rules
from nvdra_node.kubeletplugin.claim import Claim, ClaimRef, ClaimUID
from nvdra_node.kubeletplugin.driver import Driver, Effect, Plan
from nvdra_node.kubeletplugin.gone import ClaimSource, why_gone
from nvdra_node.kubeletplugin.locks import Locks
from nvdra_node.kubeletplugin.waiting import Silent, Waiting

_log = log.get(__name__)

REPEAT_READ_S = 3.0
"""For reading a claim that is prepared already: without an answer, its record answers."""


class Parts(Value, kw_only=True):
    """What a transaction works with."""

    driver: Driver
    claims: ClaimSource
    records: RecordStore
    specs: SpecFiles
    clock: Clock
    boot_id: str
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the process ends: waits end early."""
    waiting: Silent | Waiting = field(default_factory=Silent)
    """Who tells pods what their claims wait for."""


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

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._locks = Locks(parts.clock)
        self._attempts: dict[str, set[_Attempt]] = {}
        self._attempts_lock = threading.Lock()

    def prepare(self, ref: ClaimRef, deadline: Deadline) -> tuple[PreparedDevice, ...]:
        """Prepare a claim, or answer again what was prepared. Raises NvdraError; then the call may be repeated."""
        _check_uid(ref)
        try:
            with self._attempt(ref.uid) as attempt:
                return self._prepare_until(ref, attempt, deadline)
        finally:
            self._parts.waiting.done(ref)

    def _prepare_until(
        self, ref: ClaimRef, attempt: _Attempt, deadline: Deadline
    ) -> tuple[PreparedDevice, ...]:
        """Try until it is done or nothing can come of it, and say what is waited for."""
        began_s = self._parts.clock.monotonic()
        while True:
            result = self._prepare_or_reason(ref, attempt, deadline)
            if not isinstance(result, NotReadyError):
                return result
            waited_s = self._parts.clock.monotonic() - began_s
            self._parts.waiting.waits(ref, str(result), waited_s)
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
            gone = why_gone(self._parts.claims, ref, deadline)
            if gone is not None:
                self._unprepare_claim(ref, deadline)
            return gone

    def remove_stray_file(self, uid: ClaimUID, deadline: Deadline) -> bool:
        """Remove the CDI file of a claim that has no record; False when it got one meanwhile."""
        ref = ClaimRef("?", "?", uid)
        with self._locks.held((_claim_key(ref),), "sweep", deadline):
            return self._parts.records.get(uid) is None and self._parts.specs.remove(uid)

    def renew_file(self, record: Record, deadline: Deadline) -> bool:
        """Write a prepared claim's CDI file again unless it is as it would be written now; whether it had to be.

        A container of a running pod may start again after the driver was replaced, and nobody prepares the claim then.
        Raises NvdraError.
        """
        with self._locks.held((_claim_key(_ref(record)),), "renewal", deadline):
            current = self._parts.records.get(record.uid)
            if current is None or not self._is_answer(current):
                return False
            self._parts.driver.verify(current, deadline)
            return self._parts.specs.repair(current.uid, current.cdi, deadline)

    def _unprepare_claim(self, ref: ClaimRef, deadline: Deadline) -> None:
        """The caller holds the claim's lock."""
        record = downgrade.to_undo(ref.uid, self._parts)
        if record is None:
            self._parts.specs.remove(ref.uid)
            return
        with self._locks.held(record.holds, str(ref), deadline):
            if effects := self._releasable(record):
                self._demote(record)
            for effect in effects:
                self._parts.driver.undo(effect, deadline)
            self._parts.specs.remove(ref.uid)
            self._parts.records.remove(ref.uid)

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
        record = self._parts.records.get(ref.uid)
        if not attempt.has_read:
            # Once for all tries: nodes that wait for their drivers must not ask the API twice a second.
            attempt.claim = self._read_claim(ref, record, deadline)
            attempt.has_read = True
        claim = attempt.claim
        with self._locks.held((_claim_key(ref),), str(ref), deadline):
            record = self._parts.records.get(ref.uid)
            if record is not None and self._is_answer(record):
                if claim is not None and not claimjson.is_of(record, claim):
                    # Again, under the lock: the record may be from a later read than ours.
                    claim = self._parts.claims.fetch(ref, deadline)
                if claim is not None and not claimjson.is_of(record, claim):
                    self._take_back(claim, record, deadline)
                    return self._prepare_claim(claim, None, deadline)
                if self._answer_holds(record, deadline):
                    return record.devices
                claim = claimjson.decode(record)
            elif claim is None or attempt.overtaken:
                raise StaleClaimError(f"claim {ref} was unprepared while it was being prepared")
            elif found := downgrade.answer(claim, self._parts):
                return found
            return self._prepare_claim(claim, record, deadline)

    def _is_answer(self, record: Record | None) -> bool:
        """Whether a record may answer a prepare without more than a check: completed, and in this boot."""
        return (
            record is not None
            and record.state is RecordState.COMPLETED
            and record.boot_id == self._parts.boot_id
        )

    def _answer_holds(self, record: Record, deadline: Deadline) -> bool:
        """Check what a completed record promises; False: its effects must be applied again."""
        ref = _ref(record)
        try:
            self._parts.driver.verify(record, deadline)
        except (HostError, NotReadyError) as error:
            if not record.effects:
                raise
            _log.warning(
                "a prepared claim is not as it should be: applying again", error, claim=ref
            )
            return False
        if self._parts.specs.repair(record.uid, record.cdi, deadline):
            _log.warning("the CDI file was gone or changed: written again", claim=ref)
        return True

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
            return self._parts.claims.fetch(ref, deadline)
        try:
            # At most half of the time: the other half is for preparing with what we have.
            limit_s = min(deadline.remaining_s() / 2, REPEAT_READ_S if is_answer else math.inf)
            return self._parts.claims.fetch(ref, Deadline(limit_s, self._parts.clock))
        except (ApiError, DeadlineError) as error:
            _log.warning("claim not readable: using what its record says", error, claim=ref)
            return None if is_answer else claimjson.decode(record)

    def _prepare_claim(
        self, claim: Claim, record: Record | None, deadline: Deadline
    ) -> tuple[PreparedDevice, ...]:
        """Plan and carry out. The caller holds the claim's lock."""
        driver = self._parts.driver
        old_holds = record.holds if record else ()
        devices = [result.device for result in claim.results]
        others = self._others(claim.ref.uid, devices, ())
        plan = driver.plan(claim, others)
        holds = {*plan.holds, *old_holds}
        with self._locks.held(holds, str(claim.ref), deadline):
            others_now = self._others(claim.ref.uid, devices, plan.holds)
            if others_now != others:
                plan = driver.plan(claim, others_now)
            if not holds.issuperset(plan.holds):
                raise NotReadyError(f"devices of claim {claim.ref} just changed", retry_after_s=0.0)
            overlap.check(claim, plan, others_now)
            return self._carry_out(claim, plan, record, deadline)

    def _carry_out(
        self, claim: Claim, plan: Plan, old: Record | None, deadline: Deadline
    ) -> tuple[PreparedDevice, ...]:
        """Make the plan true. The caller holds the locks of the claim and of all holds, old and new."""
        driver = self._parts.driver
        started = self._start(claim, plan, old, deadline)
        outcomes = [driver.apply(effect, deadline) for effect in started.effects]
        prepared = driver.finish(claim, plan, outcomes)
        completed = replace(
            started,
            state=RecordState.COMPLETED,
            devices=prepared.devices,
            cdi=spec.to_json(prepared.spec),
        )
        driver.verify(completed, deadline)
        self._parts.specs.write(claim.ref.uid, completed.cdi, deadline)
        try:
            self._parts.records.put(completed)
        except FileError:
            if self._parts.records.get(claim.ref.uid) is None:
                with contextlib.suppress(FileError):  # then the sweep removes it
                    self._parts.specs.remove(claim.ref.uid)
            raise
        return completed.devices

    def _start(self, claim: Claim, plan: Plan, old: Record | None, deadline: Deadline) -> Record:
        """Undo what an earlier attempt did and this plan does not want; journal what will be applied."""
        kept = self._settle(plan, old, deadline)
        started = Record(
            uid=claim.ref.uid,
            namespace=claim.ref.namespace,
            name=claim.ref.name,
            state=RecordState.STARTED,
            boot_id=self._parts.boot_id,
            effects=tuple(self._capture(effect, kept, deadline) for effect in plan.effects),
            holds=plan.holds,
            config_key=plan.config_key,
            claim=claimjson.encode(claim),
            unknown=old.unknown if old else {},
        )
        if started.effects and started != old:
            self._parts.records.put(started)
        return started

    def _settle(self, plan: Plan, old: Record | None, deadline: Deadline) -> list[Effect]:
        """Undo the leftovers of ``old``; return its effects whose journal entry is still right."""
        if old is None:
            return []
        for effect in self._releasable(old):
            if plan.restart or effect_rules.find(effect, plan.effects) is None:
                self._parts.driver.undo(effect, deadline)
        if plan.restart or old.boot_id != self._parts.boot_id:
            return []  # what was captured in another boot, or is undone, is no original any more
        return list(old.effects)

    def _demote(self, record: Record) -> None:
        """Half undone must not read as completed. A full disk does not stop an unprepare: ``verify`` guards as well."""
        if record.state is RecordState.COMPLETED:
            try:
                self._parts.records.put(replace(record, state=RecordState.STARTED))
            except FileError as error:
                _log.warning(
                    "cannot journal that it is being undone: undoing", error, claim=_ref(record)
                )

    def _capture(self, effect: Effect, kept: Iterable[Effect], deadline: Deadline) -> Effect:
        if effect_rules.ORIGINAL in effect:
            return effect  # adopted from a claim that shares the device
        return effect_rules.find(effect, kept) or self._parts.driver.capture(effect, deadline)

    def _releasable(self, record: Record) -> Sequence[Effect]:
        devices = [device.device for device in record.devices]
        devices += [result["device"] for result in record.claim.get("results", ())]
        effects = self._parts.driver.release(
            record, self._others(record.uid, devices, record.holds)
        )
        is_of_this_boot = record.boot_id == self._parts.boot_id
        return [effect for effect in effects if is_of_this_boot or effect.get("persistent")]

    def _others(self, uid: str, devices: Iterable[str], holds: Iterable[str]) -> tuple[Record, ...]:
        """Other claims with these devices or holds. Records of an earlier boot hold nothing: all they did is gone."""
        return tuple(
            record
            for record in self._parts.records.sharing(uid, devices, holds)
            if downgrade.is_of_boot(record, self._parts.boot_id)
        )

    def _pause(self, error: NotReadyError, deadline: Deadline) -> None:
        """Wait as long as ``error`` says, or raise it when it does not say or there is no time."""
        pause_s = error.retry_after_s
        if pause_s is None or pause_s >= deadline.remaining_s():
            raise error
        _log.info("trying again", v=2, pause_s=pause_s, error=str(error))
        if self._parts.clock.wait(self._parts.stopping, pause_s):
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


def _ref(record: Record) -> ClaimRef:
    return ClaimRef(record.namespace, record.name, ClaimUID(record.uid))


def _claim_key(ref: ClaimRef) -> str:
    return f"claim:{ref.uid}"


def _check_uid(ref: ClaimRef) -> None:
    if not is_valid_uid(ref.uid):
        raise ClaimError(f"claim {ref}: its uid may have letters, digits and dashes only")
