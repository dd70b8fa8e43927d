"""Claims that hold a domain on this node: join, leave and sync, from any thread. Called by ``service``.

A claim gets the reply "ready" only from a reconcile pass that began after it asked, and only once its admission is
stored: from then on the daemon that serves it is neither stopped nor restarted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from nvdra_core.errors import NotReadyError, NvdraError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.imex import replies
from nvdra_node.imex.decide import is_in_use
from nvdra_node.imex.model import Holder, Run
from nvdra_node.imex.replies import JoinReply
from nvdra_node.imex.state import SharedState

_LOG = log.get(__name__)


class ClaimRegistry:
    """See the module."""

    def __init__(self, state: SharedState, clock: Clock, trigger: Callable[[], None]) -> None:
        """``trigger`` starts a reconcile pass."""
        self._state = state
        self._clock = clock
        self._trigger = trigger
        self._waiting: set[threading.Event] = set()
        self._missing: set[str] = set()
        """Claims that the last ``sync`` did not name."""
        self._passes_started = 0
        self._passes_finished = 0
        self._pass_error = ""
        self._is_admission_closed = False
        self._is_stopped = False

    @property
    def holders(self) -> Mapping[str, Holder]:
        """The claims by UID."""
        with self._state.lock:
            return dict(self._state.holders)

    @property
    def waiting_count(self) -> int:
        """Join calls in progress."""
        return len(self._waiting)

    def join(self, claim: Holder, deadline: Deadline) -> JoinReply:
        """Add the claim to its domain's holders and wait until that is ready or the deadline passes."""
        pass_done, state = threading.Event(), self._state
        with state.lock:
            needed_pass = self._passes_started + 1
            reply = replies.unverified(self._reply_to(claim), self._pass_error)
            if not reply.refused and claim.uid not in state.holders:
                state.holders[claim.uid] = claim
                self._missing.discard(claim.uid)
                _LOG.info("claim joins", v=1, claim=claim.full_name, domain=claim.domain_uid)
            self._waiting.add(pass_done)
        self._trigger()
        try:
            while not reply.refused and not self._is_stopped and deadline.remaining_s():
                self._clock.wait(pass_done, deadline.remaining_s())
                pass_done.clear()
                reply, is_final = self._reply_after_pass(claim, needed_pass)
                if is_final:
                    break
        finally:
            self._waiting.discard(pass_done)
        if reply.refused:
            self.leave(claim.uid)
        return reply

    def _reply_after_pass(self, claim: Holder, needed_pass: int) -> tuple[JoinReply, bool]:
        """Reply to a waiting claim, and whether it is final."""
        with self._state.lock:
            reply = self._reply_to(claim)
            if reply.refused:
                return reply, True
            if claim.uid not in self._state.holders:
                text = "the claim was released meanwhile"
                return replies.not_ready(reply, "ClaimLeft", text), True
            if self._passes_finished < needed_pass or self._is_admission_closed:
                return replies.unverified(reply, self._pass_error), False
            if not reply.readiness.is_ready:
                return reply, False
            try:
                self._admit(claim.uid)
            except NvdraError as error:
                _LOG.warning("refusing claim: cannot store its admission", error)
                return replies.not_ready(reply, "StateNotWritten", str(error)), False
            return reply, True

    def stop(self) -> None:
        """Complete join calls that wait: the threads of calls delay the end of the process."""
        self._is_stopped = True
        for pass_done in tuple(self._waiting):
            pass_done.set()

    def leave(self, uid: str) -> None:
        """Remove a claim; unknown ones are ignored."""
        with self._state.lock:
            left = self._state.holders.pop(uid, None)
        if left is not None:
            _LOG.info("claim leaves", v=1, claim=left.full_name, domain=left.domain_uid)
            self._trigger()

    def sync(self, held: Iterable[Holder]) -> None:
        """Take the plugin's list of all its claims. A claim that two lists in a row lack is removed.

        A claim without a domain has lost its record: it keeps the domain it has here, or any running daemon.
        """
        known, state = {holder.uid: holder for holder in held}, self._state
        with state.lock:
            for uid, holder in known.items():
                old = state.holders.get(uid, holder)
                is_admitted = holder.is_admitted or old.is_admitted
                state.holders[uid] = replace(old, is_admitted=is_admitted)
            missing = state.holders.keys() - known.keys()
            for uid in missing & self._missing:
                name = state.holders.pop(uid).full_name
                _LOG.warning("removing claim: the plugin has no record of it", claim=name)
            self._missing = missing - self._missing
            state.are_holders_known = True
        self._trigger()

    def begin_pass(self) -> None:
        """A reconcile pass begins."""
        with self._state.lock:
            self._passes_started += 1

    def end_pass(self, error: str) -> None:
        """It has ended, with an error or without: complete waiting join calls."""
        with self._state.lock:
            self._pass_error = error
            if not error:
                self._passes_finished = self._passes_started
            waiting = tuple(self._waiting)
        for pass_done in waiting:
            pass_done.set()

    def close_admission(self, run: Run | None) -> None:
        """Admit no claim until ``open_admission``. Raises NotReadyError if one was admitted to this run meanwhile."""
        state = self._state
        with state.lock:
            self._is_admission_closed = True
            holders = tuple(state.holders.values())
            situation = replace(state.snapshot.situation, spec=state.spec, holders=holders)
            if run is not None and is_in_use(run, situation):
                raise NotReadyError("a claim was admitted meanwhile")

    def open_admission(self) -> None:
        """Admit claims again."""
        self._is_admission_closed = False

    def _reply_to(self, claim: Holder) -> JoinReply:
        """The reply by the last snapshot and the present spec. Caller holds the lock."""
        state = self._state
        holders = tuple(state.holders.values())
        situation = replace(state.snapshot.situation, spec=state.spec, holders=holders)
        return replies.reply_to(claim, situation, state.snapshot.memory)

    def _admit(self, uid: str) -> None:
        """Store that the claim may use the daemon. Caller holds the lock. Raises FileError."""
        holders = self._state.holders
        holder = holders[uid]
        if holder.is_admitted:
            return
        holders[uid] = replace(holder, is_admitted=True)
        try:
            self._state.save()
        except NvdraError:
            holders[uid] = holder
            raise
