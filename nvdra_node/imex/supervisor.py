"""Reconcile loop of the IMEX daemon: observes unit and nvidia-imex, applies ``decide``'s actions, publishes a snapshot.

One thread runs ``run``; other threads report changes (``set_spec``, ``set_fabric`` ...), which trigger a pass. Built
without starting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from msgspec.structs import replace

from nvdra_core.api.fabric import FabricNodeSpec, ImexState
from nvdra_core.errors import HostError, NvdraError
from nvdra_core.runtime import log
from nvdra_node.imex import readiness, replies
from nvdra_node.imex.claims import ClaimRegistry
from nvdra_node.imex.daemon.control import Daemon, Dependencies
from nvdra_node.imex.daemon.ctl import ImexDomainStatus
from nvdra_node.imex.daemon.unit import UnitStatus
from nvdra_node.imex.decide import after_failure, decide, target
from nvdra_node.imex.model import (
    ActionKind,
    Decision,
    Fabric,
    HostAddresses,
    Memory,
    Situation,
)
from nvdra_node.imex.replies import Snapshot
from nvdra_node.imex.schedule import ReconcileSchedule
from nvdra_node.imex.state import SharedState

_LOG = log.get(__name__)
RETRY_S = 1.0


class Supervisor:
    """See the module. Safe for several threads."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._daemon = Daemon(deps)
        self._state = SharedState(deps)
        self.claims = ClaimRegistry(self._state, deps.clock, self.trigger)
        self._schedule = ReconcileSchedule()
        self._wake = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._view: ImexDomainStatus | None = None
        self._observed_at_s = deps.clock.monotonic()
        """Monotonic; when a pass last succeeded."""
        self._reload_in_s: float | None = None

    def open(self) -> None:
        """Load the state of an earlier instance of this boot. Touches no daemon. Raises FileError."""
        with self._state.lock:
            self._state.load()

    def run(self, stopping: threading.Event) -> None:
        """Reconcile until ``stopping``; the daemon is left as it is."""
        while not stopping.is_set():
            self._wake.clear()
            pause_s = self.reconcile_once()
            self._deps.clock.wait(self._wake, pause_s)

    def trigger(self) -> None:
        """Reconcile now; from any thread."""
        self._wake.set()

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` (cheap) after each pass."""
        self._listeners.append(changed)

    @property
    def snapshot(self) -> Snapshot:
        """The state after the last pass."""
        return self._state.snapshot

    def set_fabric(self, fabric: Fabric) -> None:
        """The GPUs' fabric has changed."""
        with self._state.lock:
            self._state.fabric = fabric
        self.trigger()

    def set_addresses(self, addresses: HostAddresses) -> None:
        """This host's addresses have changed."""
        with self._state.lock:
            self._state.addresses = addresses
        self.trigger()

    def set_spec(self, spec: FabricNodeSpec | None, generation: int) -> None:
        """The FabricNode's spec, also unchanged, as each of our status writes brings it again; None: no FabricNode."""
        state = self._state
        with state.lock:
            is_new = (spec, generation) != (state.spec, state.generation)
            state.spec, state.generation = spec, generation
        if is_new:
            self.trigger()  # before the file is written: a claim may be waiting
        if spec is not None:
            try:
                self._deps.store.save_spec(spec, generation)
            except NvdraError as error:
                _LOG.warning("cannot store the FabricNode; keeping it in memory", error)

    def set_view(self, view: ImexDomainStatus | None) -> None:
        """nvidia-imex's view of its peers. It is only reported, so no pass is triggered."""
        with self._state.lock:
            self._view = view
            self._state.snapshot = replace(self._state.snapshot, view=view)

    def reload_daemon(self) -> None:
        """Have a running daemon read its certificates again."""
        self._daemon.request_reload("certificates")
        self.trigger()

    def reconcile_once(self) -> float:
        """One pass; the seconds until the next is due. Never raises NvdraError."""
        self.claims.begin_pass()
        problem = ""
        try:
            pause_s = self._reconcile()
        except NvdraError as error:
            _LOG.warning("reconcile pass failed", error)
            problem, pause_s = str(error), RETRY_S
        self._expire_observation(problem)
        self.claims.end_pass(problem)
        for changed in self._listeners:
            changed()
        return pause_s

    def _reconcile(self) -> float:
        status, imex = self._observe()
        state = self._state
        with state.lock:
            if not status.unit.is_running:
                state.are_holders_known = True  # no daemon that an unknown claim could be using
            situation = state.situation(status, imex)
            before, generation = state.memory, state.generation
        decision = decide(situation, before)
        memory = self._with_log_lines(before, decision.memory, situation)
        with state.lock:
            state.remember(memory)
        is_done = self._act(decision, before, situation)
        held = sorted({h.domain_uid for h in situation.holders if h.domain_uid})
        domains = tuple((uid, readiness.of_domain(uid, situation, state.memory)) for uid in held)
        with state.lock:
            state.snapshot = Snapshot(
                situation=situation, memory=state.memory, domains=domains, view=self._view,
                generation=generation,
            )  # fmt: skip
        if not is_done:
            return RETRY_S
        return self._schedule.next_in_s(decision, situation, self._reload_in_s)

    def _observe(self) -> tuple[UnitStatus, ImexState]:
        """Status of unit and daemon. While none runs and none is needed, a recent one is reused."""
        stopped, state = self._daemon.recent_stopped_status(), self._state
        with state.lock:
            if stopped is not None:
                situation = state.situation(stopped, ImexState.UNSET)
                if target(situation, state.memory) is None:
                    return stopped, ImexState.UNSET
        was_ready = state.snapshot.situation.imex is ImexState.READY
        return self._daemon.observe(was_ready=was_ready, must_query=bool(self.claims.waiting_count))

    def _act(self, decision: Decision, before: Memory, situation: Situation) -> bool:
        """Apply the actions; False when one failed and must be tried again."""
        kind = None
        try:
            if any(action.kind is ActionKind.STOP for action in decision.actions):
                kind = ActionKind.STOP
                self.claims.close_admission(before.started.run if before.started else None)
            for action in decision.actions:
                kind = action.kind
                self._daemon.act(action, situation.spec)
            # SIGUSR1 ends a daemon that has not yet installed its handler: one that answers has.
            is_answering = situation.imex not in (ImexState.UNSET, ImexState.UNAVAILABLE)
            goes_on = situation.unit.is_running and kind is not ActionKind.STOP
            self._reload_in_s = self._daemon.send_due_reload() if is_answering and goes_on else None
        except NvdraError as error:
            _LOG.warning("cannot act on nvidia-imex", error)
            with self._state.lock:
                self._state.memory = after_failure(kind, decision, before, str(error))
                self._state.save()
            return False
        finally:
            self.claims.open_admission()
        return True

    def _expire_observation(self, problem: str) -> None:
        """After passes have failed for a while, report every domain as not ready."""
        state, now_s = self._state, self._deps.clock.monotonic()
        if not problem:
            self._observed_at_s = now_s
        elif now_s - self._observed_at_s >= replies.OBSERVATION_MAX_AGE_S:
            with state.lock:
                status = UnitStatus(state.snapshot.situation.unit)
                situation = state.situation(status, ImexState.UNSET)
                state.snapshot = replies.unobserved(state.snapshot, situation, problem)

    def _with_log_lines(self, before: Memory, memory: Memory, situation: Situation) -> Memory:
        """Add the daemon's last log lines to the reason of its end."""
        if memory.restarts == before.restarts:
            return memory
        if situation.unit.is_running:
            _LOG.warning("nvidia-imex was restarted", why=memory.interruption)
            return memory
        lines = self._daemon.last_log_lines(situation.unit.invocation_id)
        text = f"{memory.last_exit}: {lines}" if lines else memory.last_exit
        _LOG.warning("nvidia-imex ended", HostError(text), restarts=memory.restarts)
        return replace(memory, last_exit=text)
