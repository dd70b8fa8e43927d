"""Reconcile loop of the IMEX daemon: observes the unit and nvidia-imex, applies ``decide``'s actions, answers claims.

One thread runs ``run``; other threads report changes (``set_spec``, ``set_fabric``, ``join`` ...) and wake it. A claim
is answered "ready" by a pass that began after it asked, and only once the promise is on disk. Built without starting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from nvdra_core.api.fabric import FabricNodeSpec, ImexState
from nvdra_core.errors import HostError, NotReadyError, NvdraError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Deadline
from nvdra_node.imex import readiness, replies
from nvdra_node.imex.daemon.control import Daemon, Dependencies
from nvdra_node.imex.daemon.ctl import ImexDomainStatus
from nvdra_node.imex.daemon.unit import UnitStatus
from nvdra_node.imex.decide import after_failure, decide, is_in_use, target
from nvdra_node.imex.model import (
    ActionKind,
    Decision,
    Fabric,
    Holder,
    HostAddresses,
    Memory,
    Mode,
    Situation,
    Unit,
    UnitActivity,
)
from nvdra_node.imex.replies import JoinReply, Snapshot
from nvdra_node.imex.schedule import IDLE_POLL_S, ReconcileSchedule

_LOG = log.get(__name__)
RETRY_S = 1.0
STOPPED_S = IDLE_POLL_S / 2
"""How long a look that saw no daemon stands while nobody needs one."""
_NOTHING_SEEN = (UnitStatus(Unit()), float("-inf"))


class Supervisor:
    """See the module. Safe for several threads."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._daemon = Daemon(deps)
        self._is_stopping = False
        self._lock = threading.RLock()
        self._waiting: set[threading.Event] = set()
        self._wake = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._fabric = Fabric()
        self._spec: FabricNodeSpec | None = None
        self._generation = 0
        self._holders: dict[str, Holder] = {}
        self._are_holders_known = False
        self._missing: set[str] = set()
        self._memory = Memory()
        self._view: ImexDomainStatus | None = None
        self._passes_started = 0
        self._passes_finished = 0
        self._seen_at_s = deps.clock.monotonic()
        self._problem = ""
        """Why the last turn failed."""
        self._stopped = _NOTHING_SEEN
        """The last look that saw no daemon, and until when that stands while nobody needs one."""
        self._schedule = ReconcileSchedule()
        self._reload_in_s: float | None = None
        self._must_reload = False
        self._addresses = deps.addresses
        self._snapshot = Snapshot(
            situation=self._situation(UnitStatus(Unit()), ImexState.UNSET),
            memory=Memory(),
            is_seen=False,
        )

    def open(self) -> None:
        """Read what an earlier instance of this boot left. Touches no daemon. Raises FileError."""
        store = self._deps.store
        store.open()
        self._spec, self._generation = store.load_spec()
        kept = store.load(self._deps.boot_id)
        if kept is not None:
            self._memory = kept.memory
            self._holders = {holder.uid: holder for holder in kept.holders}
            self._are_holders_known = kept.are_holders_complete
            _LOG.info("took over", holders=len(kept.holders), run=kept.memory.started)

    def run(self, stopping: threading.Event) -> None:
        """Turn until ``stopping``; the daemon is left as it is."""
        while not stopping.is_set():
            self._wake.clear()
            pause_s = self.reconcile_once()
            self._deps.clock.wait(self._wake, pause_s)

    def trigger(self) -> None:
        """UnitStatus again now; from any thread."""
        self._wake.set()

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` (cheap) after each turn that found or did something else."""
        self._listeners.append(changed)

    @property
    def snapshot(self) -> Snapshot:
        """The state after the last turn."""
        return self._snapshot

    def set_fabric(self, fabric: Fabric) -> None:
        """What a look at the GPUs found."""
        with self._lock:
            self._fabric = fabric
        self.trigger()

    def set_addresses(self, addresses: HostAddresses) -> None:
        """Where this host's peers find it, and which addresses it has."""
        with self._lock:
            self._addresses = addresses
        self.trigger()

    def set_spec(self, spec: FabricNodeSpec | None, generation: int) -> None:
        """What the controller wants; None: it has made no FabricNode. It comes again with each of our own reports."""
        with self._lock:
            is_new = (spec, generation) != (self._spec, self._generation)
            self._spec, self._generation = spec, generation
        if is_new:
            self.trigger()  # before it is on file: a claim may be waiting for it
        if spec is not None:
            try:
                self._deps.store.save_spec(spec, generation)
            except NvdraError as error:
                _LOG.warning("the controller's word is kept in memory only", error)

    def set_view(self, view: ImexDomainStatus | None) -> None:
        """How nvidia-imex sees its peers. Nothing is decided by it: it is told with the next report."""
        with self._lock:
            self._view = view
            self._snapshot = replace(self._snapshot, view=view)

    def reload_daemon(self) -> None:
        """Tell a running daemon to read its certificates again."""
        self._must_reload = True
        self.trigger()

    def join(self, claim: Holder, deadline: Deadline) -> JoinReply:
        """Let a claim hold its domain, and wait until that is ready or the deadline has passed."""
        pass_done = threading.Event()
        with self._lock:
            needed = self._passes_started + 1
            joined = replies.unverified(self._reply_to(claim), self._problem)
            if not joined.refused and claim.uid not in self._holders:
                self._holders[claim.uid] = claim
                self._missing.discard(claim.uid)
                name = f"{claim.namespace}/{claim.name}"
                _LOG.info("claim joins", v=1, claim=name, domain=claim.domain_uid)
            self._waiting.add(pass_done)
        self.trigger()
        try:
            while not joined.refused and deadline.remaining_s():
                self._deps.clock.wait(pass_done, deadline.remaining_s())
                pass_done.clear()
                joined, is_final = self._answer(claim, needed)
                if is_final:
                    break
        finally:
            self._waiting.discard(pass_done)
        if joined.refused:
            self.leave(claim.uid)
        return joined

    def _answer(self, claim: Holder, needed: int) -> tuple[JoinReply, bool]:
        """What a waiting claim is told after a turn, and whether it need not wait any more."""
        with self._lock:
            joined = self._reply_to(claim)
            if joined.refused:
                return joined, True
            if claim.uid not in self._holders:
                text = "the claim was released meanwhile"
                return replies.not_ready(joined, "ClaimLeft", text), True
            if self._passes_finished < needed or self._is_stopping:
                return replies.unverified(joined, self._problem), False
            if not joined.readiness.is_ready:
                return joined, False
            try:
                self._admit(claim.uid)
            except NvdraError as error:
                _LOG.warning("a claim is not let in: that cannot be remembered", error)
                return replies.not_ready(joined, "StateNotWritten", str(error)), False
            return joined, True

    def leave(self, uid: str) -> None:
        """A claim holds its domain no more; fine when it never did."""
        with self._lock:
            gone = self._holders.pop(uid, None)
        if gone is not None:
            name = f"{gone.namespace}/{gone.name}"
            _LOG.info("claim leaves", v=1, claim=name, domain=gone.domain_uid)
            self.trigger()

    def sync(self, held: Iterable[Holder]) -> None:
        """All claims that the plugin knows. Claims that it misses twice in a row are gone: nobody will release them.

        One without a domain has lost its record: it keeps the domain it has here, or any daemon that runs.
        """
        known = {holder.uid: holder for holder in held}
        with self._lock:
            for uid, holder in known.items():
                old = self._holders.get(uid)
                is_admitted = holder.is_admitted or (old is not None and old.is_admitted)
                self._holders[uid] = replace(old or holder, is_admitted=is_admitted)
            missing = self._holders.keys() - known.keys()
            for uid in missing & self._missing:
                name = self._holders.pop(uid).name
                _LOG.warning("dropping claim: the plugin has no record of it", claim=name)
            self._missing = missing - self._missing
            self._are_holders_known = True
        self.trigger()

    def _reply_to(self, claim: Holder) -> JoinReply:
        """What the claim would be told now. Caller holds the lock."""
        found = self._snapshot.situation
        # The spec may be newer than the last turn: its word counts, the rest is as it was seen.
        situation = replace(found, spec=self._spec, holders=tuple(self._holders.values()))
        return replies.reply_to(claim, situation, self._snapshot.memory)

    def _admit(self, uid: str) -> None:
        """Remember, on file, that the claim may use the daemon. Caller holds the lock. Raises FileError."""
        holder = self._holders[uid]
        if holder.is_admitted:
            return
        self._holders[uid] = replace(holder, is_admitted=True)
        try:
            self._save()
        except NvdraError:
            self._holders[uid] = holder
            raise

    def _save(self) -> None:
        self._deps.store.save(self._deps.boot_id, self._memory, self._holders.values())

    # --- the loop

    def reconcile_once(self) -> float:
        """One turn. Returns the seconds until the next one is due. Never raises NvdraError."""
        with self._lock:
            self._passes_started += 1
        problem = ""
        try:
            pause_s = self._reconcile()
        except NvdraError as error:
            _LOG.warning("cannot look after nvidia-imex", error)
            problem, pause_s = str(error), RETRY_S
        with self._lock:
            self._problem, now_s = problem, self._deps.clock.monotonic()
            if not problem:
                self._passes_finished, self._seen_at_s = self._passes_started, now_s
            elif now_s - self._seen_at_s >= replies.OBSERVATION_MAX_AGE_S:
                situation = self._situation(
                    UnitStatus(self._snapshot.situation.unit), ImexState.UNSET
                )
                self._snapshot = replies.unobserved(self._snapshot, situation, problem)
            waiting = tuple(self._waiting)
        for pass_done in waiting:
            pass_done.set()
        for changed in self._listeners:
            changed()
        return pause_s

    def _reconcile(self) -> float:
        look, imex = self._observe()
        with self._lock:
            if not look.unit.is_running:
                self._are_holders_known = True  # nothing runs that an unknown claim could be using
            situation = self._situation(look, imex)
            before, generation = self._memory, self._generation
        decision = decide(situation, before)
        memory = self._with_last_words(before, decision.memory, situation)
        self._remember(memory, before)
        is_done = self._act(decision, before, situation)
        held = sorted({h.domain_uid for h in situation.holders if h.domain_uid})
        domains = tuple((uid, readiness.of_domain(uid, situation, self._memory)) for uid in held)
        with self._lock:
            self._snapshot = Snapshot(
                situation=situation, memory=self._memory, domains=domains, view=self._view,
                generation=generation,
            )  # fmt: skip
        if not is_done:
            return RETRY_S
        return self._schedule.next_in_s(decision, situation, self._reload_in_s)

    def _observe(self) -> tuple[UnitStatus, ImexState]:
        """The daemon. Where none ran a moment ago and nobody needs one, systemd is not asked again."""
        clock, found = self._deps.clock, self._snapshot.situation
        with self._lock:
            look, until_s = self._stopped
            must_query = bool(self._waiting)
            if clock.monotonic() < until_s:
                situation = self._situation(look, ImexState.UNSET)
                if target(situation, self._memory) is None:
                    return look, ImexState.UNSET
        self._stopped = _NOTHING_SEEN
        look, imex = self._daemon.observe(
            was_ready=found.imex is ImexState.READY, must_query=must_query
        )
        is_idle = look.unit.activity in (UnitActivity.INACTIVE, UnitActivity.FAILED)
        if is_idle and self._deps.policy.mode is Mode.DRIVER_MANAGED:
            self._stopped = (look, clock.monotonic() + STOPPED_S)
        return look, imex

    def _remember(self, memory: Memory, before: Memory) -> None:
        """Keep it, on file first. Raises FileError; then ``before`` stands."""
        with self._lock:
            self._memory = memory
            try:
                self._save()
            except NvdraError:
                self._memory = before
                raise

    def _situation(self, look: UnitStatus, imex: ImexState) -> Situation:
        """All that ``decide`` looks at. Caller holds the lock.

        A claim that waited for a domain counts no more once it must be refused: nothing is started for it, also in the
        turn before it is told.
        """
        deps = self._deps
        known = self._holders.values()
        holders = (h for h in known if h.is_admitted or not replies.refusal(h, self._spec, known))
        return Situation(
            now_s=deps.clock.monotonic(),
            policy=deps.policy,
            fabric=self._fabric,
            addresses=self._addresses,
            spec=self._spec,
            holders=tuple(holders),
            are_holders_known=self._are_holders_known,
            unit=look.unit,
            imex=imex,
            imex_problem=deps.ctl.problem() if imex is ImexState.UNAVAILABLE else "",
            foreign=look.foreign,
            has_certificate=deps.has_certificate(),
        )

    def _with_last_words(self, before: Memory, memory: Memory, situation: Situation) -> Memory:
        """Add what the daemon wrote last to the reason why it ended."""
        if memory.restarts == before.restarts:
            return memory
        if situation.unit.is_running:
            _LOG.warning("nvidia-imex was restarted", why=memory.interruption)
            return memory
        words = self._daemon.last_log_lines(situation.unit.invocation_id)
        text = f"{memory.last_exit}: {words}" if words else memory.last_exit
        _LOG.warning("nvidia-imex ended", HostError(text), restarts=memory.restarts)
        return replace(memory, last_exit=text)

    def _act(self, decision: Decision, before: Memory, situation: Situation) -> bool:
        """Carry out; False when something failed and must be tried again."""
        kind = None
        if decision.actions:
            self._stopped = _NOTHING_SEEN
        if self._must_reload:
            self._must_reload = False
            self._daemon.request_reload("certificates")
        try:
            if any(action.kind is ActionKind.STOP for action in decision.actions):
                kind = ActionKind.STOP
                self._stop_admitting(before)
            for action in decision.actions:
                kind = action.kind
                self._daemon.act(action, situation.spec)
            # One that does not answer may not have got so far that SIGUSR1 does not end it.
            answers = situation.imex not in (ImexState.UNSET, ImexState.UNAVAILABLE)
            goes_on = situation.unit.is_running and kind is not ActionKind.STOP
            self._reload_in_s = self._daemon.send_due_reload() if answers and goes_on else None
        except NvdraError as error:
            _LOG.warning("cannot act on nvidia-imex", error)
            with self._lock:
                self._memory = after_failure(kind, decision, before, str(error))
                self._save()
            return False
        finally:
            self._is_stopping = False
        return True

    def _stop_admitting(self, memory: Memory) -> None:
        """Nobody is told "ready" from here to the end of the turn. Raises NotReadyError when somebody just was."""
        with self._lock:
            self._is_stopping = True
            holders = tuple(self._holders.values())
            situation = replace(self._snapshot.situation, spec=self._spec, holders=holders)
            if memory.started is not None and is_in_use(memory.started.run, situation):
                raise NotReadyError("a claim was admitted meanwhile")
