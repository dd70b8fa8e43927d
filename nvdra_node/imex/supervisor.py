"""The loop around ``decide``: looks at the unit and at nvidia-imex, acts, and tells those who wait for a domain.

One thread runs ``run``; everybody else gives it news (``set_spec``, ``set_fabric``, ``join`` ...) and is woken. A claim
is told "ready" only by a turn that began after it asked, about the incarnation that was seen before and after the
question. What was promised is on file before it is said. Built without starting; ``turn`` is one turn, for tests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from nvdra_core import log
from nvdra_core.api.fabric import FabricDomain, FabricNodeSpec, ImexState, domain_named
from nvdra_core.clock import Deadline
from nvdra_core.errors import HostError, NotReadyError, NvdraError
from nvdra_core.value import Value, replace
from nvdra_node.imex import readiness
from nvdra_node.imex.ctl import DomainView
from nvdra_node.imex.daemon import Daemon, Doors
from nvdra_node.imex.decide import decide, is_in_use
from nvdra_node.imex.model import (
    ActionKind,
    Decision,
    Fabric,
    Holder,
    Memory,
    Readiness,
    Run,
    Situation,
    Unit,
    UnitActivity,
)
from nvdra_node.imex.unit import Look

_LOG = log.get(__name__)

FIRST_POLL_S = 0.1
"""How soon a starting daemon is asked again; grows by half each time, up to ``STARTING_POLL_S``."""
STARTING_POLL_S = 2.0
STEADY_POLL_S = 5.0
IDLE_POLL_S = 30.0
RETRY_S = 1.0


class Snapshot(Value, kw_only=True):
    """Everything that is known after a turn, for the status and for those who watch."""

    situation: Situation
    memory: Memory
    domains: tuple[tuple[str, Readiness], ...] = ()
    """Of every domain that is held here, by UID."""
    view: DomainView | None = None
    generation: int = 0

    @property
    def run(self) -> Run | None:
        """What runs now."""
        started = self.memory.started
        return started.run if started is not None and self.situation.unit.is_running else None


class Joined(Value):
    """What a claim is told. ``domain`` None: the controller does not name it."""

    readiness: Readiness
    domain: FabricDomain | None
    refused: str = ""
    """Why it may never join; empty: it may."""
    has_fabric: bool = True


class Supervisor:
    """See the module. Safe for several threads."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._daemon = Daemon(doors)
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
        self._view: DomainView | None = None
        self._turns_begun = 0
        self._turns_done = 0
        self._poll_s = FIRST_POLL_S
        self._must_reload = False
        self._snapshot = Snapshot(
            situation=self._situation(Look(Unit()), ImexState.UNSET), memory=Memory()
        )

    # --- life

    def open(self) -> None:
        """Read what an earlier instance of this boot left. Touches no daemon. Raises FileError."""
        store = self._doors.store
        store.open()
        self._spec, self._generation = store.load_spec()
        kept = store.load(self._doors.boot_id)
        if kept is not None:
            self._memory = kept.memory
            self._holders = {holder.uid: holder for holder in kept.holders}
            self._are_holders_known = True
            _LOG.info("took over", holders=len(kept.holders), run=kept.memory.started)

    def run(self, stopping: threading.Event) -> None:
        """Turn until ``stopping``; the daemon is left as it is."""
        while not stopping.is_set():
            self._wake.clear()
            pause_s = self.turn()
            self._doors.clock.wait(self._wake, pause_s)

    def wake(self) -> None:
        """Look again now; from any thread."""
        self._wake.set()

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` (cheap) after each turn that found or did something else."""
        self._listeners.append(changed)

    @property
    def snapshot(self) -> Snapshot:
        """The state after the last turn."""
        return self._snapshot

    # --- news

    def set_fabric(self, fabric: Fabric) -> None:
        """What a look at the GPUs found."""
        with self._lock:
            self._fabric = fabric
        self.wake()

    def set_spec(self, spec: FabricNodeSpec | None, generation: int) -> None:
        """What the controller wants; None: it has made no FabricNode."""
        with self._lock:
            is_new = spec != self._spec
            self._spec, self._generation = spec, generation
        if is_new and spec is not None:
            try:
                self._doors.store.save_spec(spec, generation)
            except NvdraError as error:
                _LOG.warning("the controller's word is kept in memory only", error)
        self.wake()

    def set_view(self, view: DomainView | None) -> None:
        """How nvidia-imex sees its peers."""
        with self._lock:
            is_new = view != self._view
            self._view = view
        if is_new:
            self.wake()

    def reload_daemon(self) -> None:
        """Tell a running daemon to read its certificates again."""
        self._must_reload = True
        self.wake()

    # --- claims

    def join(self, claim: Holder, deadline: Deadline) -> Joined:
        """Let a claim hold its domain, and wait until that is ready or the deadline has passed."""
        turned = threading.Event()
        with self._lock:
            needed = self._turns_begun + 1
            joined = self._look_up(claim)
            if not joined.refused and claim.uid not in self._holders:
                self._holders[claim.uid] = claim
                self._missing.discard(claim.uid)
                name = f"{claim.namespace}/{claim.name}"
                _LOG.info("claim joins", v=1, claim=name, domain=claim.domain_uid)
            self._waiting.add(turned)
        self.wake()
        try:
            while not joined.refused and deadline.remaining_s():
                self._doors.clock.wait(turned, deadline.remaining_s())
                turned.clear()
                joined, is_final = self._answer(claim, needed, joined)
                if is_final:
                    break
        finally:
            self._waiting.discard(turned)
        if joined.refused:
            self.leave(claim.uid)
        return joined

    def _answer(self, claim: Holder, needed: int, before: Joined) -> tuple[Joined, bool]:
        """What a waiting claim is told after a turn, and whether it need not wait any more."""
        with self._lock:
            joined = self._look_up(claim)
            if joined.refused:
                return joined, True
            if self._turns_done < needed or self._is_stopping:
                return before if joined.readiness.is_ready else joined, False
            if joined.readiness.is_ready:
                self._admit(claim.uid)
            return joined, joined.readiness.is_ready

    def leave(self, uid: str) -> None:
        """A claim holds its domain no more; fine when it never did."""
        with self._lock:
            gone = self._holders.pop(uid, None)
        if gone is not None:
            _LOG.info(
                "claim leaves", v=1, claim=f"{gone.namespace}/{gone.name}", domain=gone.domain_uid
            )
            self.wake()

    def sync(self, held: Iterable[Holder]) -> None:
        """All claims that the plugin knows. Claims that it misses twice in a row are gone: nobody will release them."""
        known = {holder.uid: holder for holder in held}
        with self._lock:
            for uid, holder in known.items():
                old = self._holders.get(uid)
                is_admitted = holder.is_admitted or (old is not None and old.is_admitted)
                self._holders[uid] = replace(old or holder, is_admitted=is_admitted)
            missing = self._holders.keys() - known.keys()
            for uid in missing & self._missing:
                _LOG.warning(
                    "a claim without a record is dropped", claim=self._holders.pop(uid).name
                )
            self._missing = missing - self._missing
            self._are_holders_known = True
        self.wake()

    def _look_up(self, claim: Holder) -> Joined:
        """What the claim would be told now. Caller holds the lock."""
        domain = domain_named(self._spec, claim.domain_uid) if self._spec is not None else None
        if domain is not None and domain.namespace != claim.namespace:
            text = (
                f"ComputeDomain {domain.uid} is in namespace {domain.namespace}, and the claim is in"
                f" {claim.namespace}: a claim may join domains of its own namespace only"
            )
            return Joined(Readiness(is_ready=False, reason="WrongNamespace"), domain, text)
        old = self._holders.get(claim.uid)
        if domain is not None and domain.deleting and (old is None or not old.is_admitted):
            text = f"ComputeDomain {domain.namespace}/{domain.name} is being deleted"
            return Joined(Readiness(is_ready=False, reason="DomainDeleting"), domain, text)
        found = self._snapshot.situation
        # The spec may be newer than the last turn: its word counts, the rest is as it was seen.
        situation = replace(found, spec=self._spec, holders=tuple(self._holders.values()))
        state = readiness.of_domain(claim.domain_uid, situation, self._snapshot.memory)
        return Joined(state, domain, has_fabric=bool(found.fabric.clique_id))

    def _admit(self, uid: str) -> None:
        """Remember, on file, that the claim may use the daemon. Caller holds the lock."""
        holder = self._holders.get(uid)
        if holder is not None and not holder.is_admitted:
            self._holders[uid] = replace(holder, is_admitted=True)
            self._save()

    def _save(self) -> None:
        self._doors.store.save(self._doors.boot_id, self._memory, self._holders.values())

    # --- the loop

    def turn(self) -> float:
        """One turn. Returns the seconds until the next one is due. Never raises NvdraError."""
        with self._lock:
            self._turns_begun += 1
        try:
            pause_s = self._turn()
        except NvdraError as error:
            _LOG.warning("cannot look after nvidia-imex", error)
            pause_s = RETRY_S
        with self._lock:
            self._turns_done = self._turns_begun
            waiting = tuple(self._waiting)
        for turned in waiting:
            turned.set()
        for changed in self._listeners:
            changed()
        return pause_s

    def _turn(self) -> float:
        look, imex = self._daemon.look(was_ready=self._snapshot.situation.imex is ImexState.READY)
        with self._lock:
            if not look.unit.is_running:
                self._are_holders_known = True  # nothing runs that an unknown claim could be using
            situation = self._situation(look, imex)
            before, generation = self._memory, self._generation
        decision = decide(situation, before)
        memory = self._with_last_words(before, decision.memory, situation)
        with self._lock:
            self._memory = memory
            self._save()
        is_done = self._act(decision, before, situation)
        held = sorted({holder.domain_uid for holder in situation.holders})
        domains = tuple((uid, readiness.of_domain(uid, situation, self._memory)) for uid in held)
        with self._lock:
            self._snapshot = Snapshot(
                situation=situation, memory=self._memory, domains=domains, view=self._view,
                generation=generation,
            )  # fmt: skip
        return self._pause_s(decision, situation) if is_done else RETRY_S

    def _situation(self, look: Look, imex: ImexState) -> Situation:
        """All that ``decide`` looks at. Caller holds the lock.

        A claim that waited for a domain counts no more once it must be refused: nothing is started for it, also in the
        turn before it is told.
        """
        doors = self._doors
        known = self._holders.values()
        holders = (h for h in known if h.is_admitted or not self._look_up(h).refused)
        return Situation(
            now_s=doors.clock.monotonic(),
            policy=doors.policy,
            fabric=self._fabric,
            address=doors.address,
            spec=self._spec,
            holders=tuple(holders),
            are_holders_known=self._are_holders_known,
            unit=look.unit,
            imex=imex,
            foreign=look.foreign,
            has_certificate=doors.has_certificate(),
        )

    def _with_last_words(self, before: Memory, memory: Memory, situation: Situation) -> Memory:
        """Add what the daemon wrote last to the reason why it ended."""
        if memory.restarts == before.restarts or memory.started is not None:
            return memory
        words = self._daemon.last_words(situation.unit.invocation_id)
        text = f"{memory.last_exit}: {words}" if words else memory.last_exit
        _LOG.warning("nvidia-imex ended", HostError(text), restarts=memory.restarts)
        return replace(memory, last_exit=text)

    def _act(self, decision: Decision, before: Memory, situation: Situation) -> bool:
        """Carry out; False when something failed and must be tried again."""
        is_stop = any(action.kind is ActionKind.STOP for action in decision.actions)
        try:
            if is_stop:
                self._stop_admitting(before)
            for action in decision.actions:
                if action.kind is ActionKind.START:
                    self._must_reload = False  # it reads what there is
                self._daemon.act(action, situation.spec)
            if self._must_reload and situation.unit.is_running:
                self._must_reload = False
                self._daemon.reload("certificates")
        except NvdraError as error:
            _LOG.warning("cannot act on nvidia-imex", error)
            if is_stop:
                with self._lock:
                    self._memory = before  # it still runs, and we must still know what it is
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

    def _pause_s(self, decision: Decision, situation: Situation) -> float:
        kinds = {action.kind for action in decision.actions}
        if ActionKind.START in kinds:
            self._poll_s = FIRST_POLL_S
        if kinds & {ActionKind.START, ActionKind.STOP}:
            return 0.0
        pauses = [IDLE_POLL_S]
        if decision.wake_in_s is not None:
            pauses.append(decision.wake_in_s)
        is_waiting = any(not holder.is_admitted for holder in situation.holders)
        if situation.unit.is_running and situation.imex is not ImexState.READY:
            pauses.append(self._poll_s)
            self._poll_s = min(self._poll_s * 1.5, STARTING_POLL_S)
        elif situation.unit.activity is not UnitActivity.INACTIVE or is_waiting:
            pauses.append(STEADY_POLL_S)
        return max(0.0, min(pauses))
