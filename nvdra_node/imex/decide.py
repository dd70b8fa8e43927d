"""State machine of the node's IMEX daemon: situation + memory -> actions + memory. Pure. Called by ``supervisor``.

Safety rules, in this order:

- A daemon that serves an admitted claim is never stopped or restarted: not for another domain, not for a changed
  configuration, not by a start or end of this process.
- A daemon that ended under claims is restarted by policy (``AfterAbruptEnd``), with backoff, and never by systemd: its
  restart re-enables exports in the kernel.
- One domain at a time (isolation ``domain``): the running one while it has holders, then that of the oldest claim.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from nvdra_core.api.fabric import FabricDomain, ImexState, Isolation, domain_named
from nvdra_node.imex.model import (
    Action,
    ActionKind,
    AfterAbruptEnd,
    Decision,
    Holder,
    Memory,
    Mode,
    Run,
    Situation,
    Started,
    UnitActivity,
)

MAX_DOUBLINGS = 16
RESTARTED = "nvidia-imex was restarted by something other than nvdra (systemctl, needrestart)"


def run_for(domain: FabricDomain, situation: Situation) -> Run | None:
    """The run that serves a domain here; None while slot, address or certificate is missing."""
    domain_uid = domain.uid if domain.isolation is Isolation.DOMAIN else ""
    return _run(domain_uid, domain.port, situation, slot_count_of(domain, situation))


def slot_count_of(domain: FabricDomain, situation: Situation) -> int:
    """Slots in the nodes_config of a domain: its own number, or that of the clique."""
    of_clique = situation.spec.slot_count if situation.spec is not None else 0
    return (domain.slot_count if domain.isolation is Isolation.DOMAIN else 0) or of_clique


def _run(domain_uid: str, port: int, situation: Situation, slot_count: int) -> Run | None:
    spec, policy = situation.spec, situation.policy
    if spec is None or spec.slot is None or spec.slot >= slot_count:
        return None
    if not situation.addresses.chosen:
        return None
    if not spec.clique_id or spec.clique_id != situation.fabric.clique_id:
        return None
    if policy.needs_encryption and not situation.has_certificate:
        return None
    return Run(
        domain_uid=domain_uid,
        clique_id=spec.clique_id,
        slot=spec.slot,
        slot_count=slot_count,
        port=port,
        address=situation.addresses.chosen,
        is_encrypted=policy.needs_encryption,
    )


def serves(run: Run, wanted: Run) -> bool:
    """Whether a running configuration serves what is wanted. Other differences apply from the next start."""
    return (run.domain_uid, run.clique_id, run.slot, run.port) == (
        wanted.domain_uid,
        wanted.clique_id,
        wanted.slot,
        wanted.port,
    )


def holds(run: Run, domain_uid: str, situation: Situation) -> bool:
    """Whether this run serves a domain."""
    if run.domain_uid:
        return run.domain_uid == domain_uid
    domain = domain_named(situation.spec, domain_uid) if situation.spec is not None else None
    # A claim of a domain that left the spec may still use it.
    return domain is None or domain.isolation is Isolation.CHANNEL


def target(situation: Situation, memory: Memory) -> Run | None:
    """The wanted run; None: none is needed."""
    if situation.spec is None:
        return None
    running = memory.started.run if memory.started is not None else None
    for domain_uid in _by_priority(situation, running):
        domain = domain_named(situation.spec, domain_uid)
        if domain is not None and (wanted := run_for(domain, situation)) is not None:
            return wanted
        if running is not None and running.domain_uid == domain_uid:
            return running  # the domain left the spec, or slot or fabric is lost: claims go on
        if is_admitted(domain_uid, situation):
            return None  # its containers may still have the channel: no other domain may run
    if situation.spec.shared_port:
        return _run("", situation.spec.shared_port, situation, situation.spec.slot_count)
    shared = (d for d in situation.spec.domains if d.isolation is Isolation.CHANNEL)
    return next((run for d in shared if (run := run_for(d, situation)) is not None), None)


def is_admitted(domain_uid: str, situation: Situation) -> bool:
    """Whether a claim of this domain is admitted."""
    return any(h.is_admitted and h.domain_uid == domain_uid for h in situation.holders)


def _by_priority(situation: Situation, running: Run | None) -> list[str]:
    """Held domains in the order of serving: admitted, then running, then by age of the claim."""

    def rank(item: tuple[int, str, bool]) -> tuple[bool, bool, int]:
        place, domain_uid, is_admitted = item
        is_running = running is not None and holds(running, domain_uid, situation)
        return (not is_admitted, not is_running, place)

    held = [(i, h.domain_uid, h.is_admitted) for i, h in enumerate(sorted(situation.holders))]
    return list(dict.fromkeys(domain_uid for _, domain_uid, _ in sorted(held, key=rank)))


def decide(situation: Situation, memory: Memory) -> Decision:
    """Actions and memory for a situation."""
    memory = _without_released(situation, memory)
    if situation.policy.mode is Mode.HOST_MANAGED:
        return Decision(actions=(), memory=_hosted(situation, memory))
    unit = situation.unit
    if unit.activity is UnitActivity.DEACTIVATING:
        return Decision(actions=(), memory=memory)
    if unit.is_running:
        return _while_running(situation, memory)
    if memory.started is not None and memory.started.is_unsure:
        memory = replace(
            memory, started=None
        )  # whether it ran is unknown: started like a first time
    elif memory.started is not None:
        memory = _after_end(situation, memory, memory.started)
    return _while_stopped(situation, memory)


def _while_running(situation: Situation, memory: Memory) -> Decision:
    unit, started = situation.unit, memory.started
    if started is None and memory.last_run is not None:
        started = Started(run=memory.last_run, invocation_id=unit.invocation_id)
        memory = replace(memory, started=started, last_run=None, is_held=False)
    if started is None:
        return _with_unknown(situation, memory)
    if started.invocation_id != unit.invocation_id:
        # First observation after our start; or it was restarted externally, with our configuration.
        if started.invocation_id:
            users = [h.uid for h in situation.holders if _uses(h, started.run, situation)]
            memory = _interrupted(memory, users, RESTARTED)
        started = replace(started, invocation_id=unit.invocation_id, is_unsure=False)
        memory = replace(memory, started=started, ready_since_s=None)
    memory = _note_readiness(situation, memory)
    if is_in_use(started.run, situation):
        return Decision(
            actions=(Action(kind=ActionKind.WRITE_HOSTS, why="peers", run=started.run),),
            memory=replace(memory, idle_since_s=None),
        )
    return _while_unused(situation, memory, started)


def _while_unused(situation: Situation, memory: Memory, started: Started) -> Decision:
    """No admitted claim uses the running daemon."""
    wanted = target(situation, memory)
    hosts = Action(kind=ActionKind.WRITE_HOSTS, why="peers", run=started.run)
    if not situation.are_holders_known:
        return Decision(actions=(hosts,), memory=memory)
    if wanted == started.run:
        return Decision(actions=(hosts,), memory=replace(memory, idle_since_s=None))
    if wanted is not None:
        return _stop(memory, f"needed for {_named(wanted)}")
    idle_since_s = situation.now_s if memory.idle_since_s is None else memory.idle_since_s
    left_s = idle_since_s + situation.policy.linger_s - situation.now_s
    if left_s <= 0:
        return _stop(
            memory, f"{_named(started.run)} has had no claim for {situation.policy.linger_s:g} s"
        )
    memory = replace(memory, idle_since_s=idle_since_s)
    return Decision(actions=(hosts,), memory=memory, wake_in_s=left_s)


def _with_unknown(situation: Situation, memory: Memory) -> Decision:
    """The state was lost, and with it the daemon's run: it is stopped only when no claim can be using it."""
    if not situation.are_holders_known or any(h.is_admitted for h in situation.holders):
        return Decision(actions=(), memory=memory)
    return _stop(memory, "its configuration is unknown and no claim uses it")


def _while_stopped(situation: Situation, memory: Memory) -> Decision:
    if memory.is_held and not any(holder.is_admitted for holder in situation.holders):
        memory = replace(memory, is_held=False)
    wanted = target(situation, memory)
    if wanted is None or memory.is_held or situation.foreign:
        return Decision(actions=(), memory=memory)
    wait_s = memory.retry_at_s - situation.now_s
    if wait_s > 0:
        return Decision(actions=(), memory=memory, wake_in_s=wait_s)
    why = f"for {_named(wanted)}"
    actions = [
        Action(kind=ActionKind.WRITE_CONFIG, why=why, run=wanted),
        Action(kind=ActionKind.START, why=why, run=wanted),
    ]
    if memory.recovers_domain != wanted.domain_uid:
        # All domains of a clique have the same node list: nvidia-imex would wait for the other domain's peers.
        actions.insert(
            0, Action(kind=ActionKind.CLEAR_RECOVERY, why="persist.dat is of another domain")
        )
    return Decision(
        actions=tuple(actions),
        memory=replace(
            memory,
            started=Started(run=wanted, invocation_id=""),
            last_run=None,
            start_error="",
            idle_since_s=None,
            ready_since_s=None,
            recovers_domain=wanted.domain_uid,
        ),
    )


def _after_end(situation: Situation, memory: Memory, started: Started) -> Memory:
    """Memory after an unplanned end."""
    unit, policy = situation.unit, situation.policy
    is_abrupt = unit.result != "success"
    pause_s = policy.backoff_s * 2 ** min(memory.failures, MAX_DOUBLINGS)
    was_used = is_abrupt and is_in_use(started.run, situation)
    users = [h.uid for h in situation.holders if _uses(h, started.run, situation)]
    memory = _interrupted(memory, users, _exit_text(situation, memory.start_error))
    return replace(
        memory,
        started=None,
        last_run=started.run,
        failures=memory.failures + 1,
        retry_at_s=situation.now_s + min(pause_s, policy.max_backoff_s),
        ready_since_s=None,
        idle_since_s=None,
        last_exit=_exit_text(situation, memory.start_error),
        start_error="",
        is_held=was_used and policy.after_abrupt_end is AfterAbruptEnd.HOLD,
        recovers_domain=started.run.domain_uid if is_abrupt else None,
    )


def _interrupted(memory: Memory, users: Iterable[str], text: str) -> Memory:
    """Memory after an unplanned end or restart under these claims."""
    return replace(
        memory,
        restarts=memory.restarts + 1,
        interrupted=tuple(dict.fromkeys((*memory.interrupted, *users))),
        interruption=text,
    )


def _without_released(situation: Situation, memory: Memory) -> Memory:
    """Drop interrupted claims that were released."""
    if not memory.interrupted or not situation.are_holders_known:
        return memory
    held = {holder.uid for holder in situation.holders}
    return replace(memory, interrupted=tuple(uid for uid in memory.interrupted if uid in held))


def _hosted(situation: Situation, memory: Memory) -> Memory:
    """Memory in mode hostManaged: the host's daemon is never touched; its restarts are noted."""
    unit = situation.unit
    now = unit.invocation_id if unit.is_running else ""
    kept = Memory(
        restarts=memory.restarts,
        interrupted=memory.interrupted,
        interruption=memory.interruption,
        host_invocation=now or memory.host_invocation,
    )
    if not now or memory.host_invocation in ("", now):
        return kept
    users = [holder.uid for holder in situation.holders if holder.is_admitted]
    return _interrupted(kept, users, "the host's nvidia-imex was restarted")


def _exit_text(situation: Situation, start_error: str) -> str:
    unit = situation.unit
    if unit.result == "success" and start_error:
        return start_error  # no process: the unit is masked, or its file is missing
    if unit.result == "success":
        return "nvidia-imex ended by itself or was stopped by hand"
    status = f" with status {unit.exit_status}" if unit.exit_status else ""
    return f"nvidia-imex ended{status} ({unit.result})"


def _note_readiness(situation: Situation, memory: Memory) -> Memory:
    if situation.imex is not ImexState.READY:
        return replace(memory, ready_since_s=None)
    since_s = situation.now_s if memory.ready_since_s is None else memory.ready_since_s
    is_healthy = situation.now_s - since_s >= situation.policy.healthy_s
    failures = 0 if is_healthy else memory.failures
    return replace(memory, ready_since_s=since_s, failures=failures)


def is_in_use(run: Run, situation: Situation) -> bool:
    """Whether an admitted claim uses this run."""
    return any(_uses(holder, run, situation) for holder in situation.holders)


def _uses(holder: Holder, run: Run, situation: Situation) -> bool:
    return holder.is_admitted and holds(run, holder.domain_uid, situation)


def after_failure(kind: ActionKind | None, decision: Decision, before: Memory, text: str) -> Memory:
    """Memory after an action failed with ``text``. ``before``: the memory before the decision."""
    if kind is ActionKind.STOP:
        return before
    if kind is ActionKind.START:
        # It may run all the same: the next observation shows.
        return replace(decision.memory, start_error=text)
    if any(action.kind is ActionKind.START for action in decision.actions):
        # The files may be of either run.
        return replace(before, last_run=None, last_exit=text, failures=before.failures + 1)
    return decision.memory


def _stop(memory: Memory, why: str) -> Decision:
    stopped = replace(
        memory,
        started=None,
        last_run=None,
        idle_since_s=None,
        ready_since_s=None,
        recovers_domain=None,
        failures=0,
    )
    return Decision(actions=(Action(kind=ActionKind.STOP, why=why),), memory=stopped)


def _named(run: Run) -> str:
    return f"ComputeDomain {run.domain_uid}" if run.domain_uid else "the clique"


def blockers(situation: Situation, domain_uids: Iterable[str]) -> str:
    """Names of the claims that hold these domains, for messages."""
    wanted = set(domain_uids)
    names = [h.full_name for h in sorted(situation.holders) if h.domain_uid in wanted]
    return ", ".join(names) or "no claim"
