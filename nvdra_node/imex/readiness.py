"""Whether claims of a domain may start on this node, and if not, why. Pure. Called by ``supervisor`` and ``replies``.

The message appears in events of pods: the missing condition and, where there is one, the remedy.
"""

from __future__ import annotations

from nvdra_core.api.fabric import FabricDomain, FabricState, ImexState, Isolation, domain_named
from nvdra_node.imex.decide import (
    blockers,
    holds,
    is_admitted,
    run_for,
    serves,
    slot_count_of,
    target,
)
from nvdra_node.imex.model import ADDRESS_REMEDY, Memory, Mode, Readiness, Situation, Started

RESTARTED = "ImexRestarted"
"""Claims may start; earlier ones lost their shared memory."""
RECOVERY = "GpuRecovery"
"""Claims may start, although a GPU needs a recovery."""
_FABRIC_REASONS = {
    FabricState.UNSET: (
        "WaitingForFabric",
        "the state of the GPUs' NVLink fabric is not known yet",
    ),
    FabricState.IN_PROGRESS: (
        "FabricInProgress",
        "the GPUs are still registering with the NVLink fabric",
    ),
    FabricState.FAILED: ("FabricFailed", "the NVLink fabric of this node failed"),
}


def of_domain(domain_uid: str, situation: Situation, memory: Memory) -> Readiness:
    """Whether claims of this domain may start here now."""
    spec = situation.spec
    if spec is None:
        return _wait(
            "WaitingForController",
            "this node has no FabricNode yet; is nvdra-controller running?",
        )
    domain = domain_named(spec, domain_uid)
    if domain is None:
        return _of_unknown(domain_uid, situation, memory)
    state = situation.fabric.state
    if state is FabricState.NOT_SUPPORTED:
        return Readiness(is_ready=True, message="this node has no multi-node NVLink")
    if state is not FabricState.COMPLETED:
        reason, text = _FABRIC_REASONS[state]
        detail = f": {situation.fabric.message}" if situation.fabric.message else ""
        return _wait(reason, text + detail)
    if situation.policy.mode is Mode.HOST_MANAGED:
        return _of_hosted(domain, situation, memory)
    return _of_managed(domain, situation, memory)


def _wait(reason: str, message: str) -> Readiness:
    return Readiness(is_ready=False, reason=reason, message=message)


def _of_unknown(domain_uid: str, situation: Situation, memory: Memory) -> Readiness:
    """The FabricNode does not name the domain (any more). Admitted claims go on."""
    started = memory.started
    is_served = started is not None and started.run.domain_uid == domain_uid
    if is_served and is_admitted(domain_uid, situation) and situation.imex is ImexState.READY:
        return Readiness(
            is_ready=True, reason="DomainGone", message="the ComputeDomain was deleted"
        )
    return _wait(
        "WaitingForDomain",
        f"ComputeDomain {domain_uid} is not assigned to this node yet; does it exist, and is nvdra-controller running?"
        " If this node may not read its FabricNode, the journal of nvdra-imex-supervisor says so",
    )


def _ready(domain_uid: str, situation: Situation, memory: Memory) -> Readiness:
    """Claims may start. The reason tells what READY does not: earlier claims whose IMEX was interrupted, as their
    shared memory is lost, and GPUs that need a recovery, possibly of the whole IMEX domain.
    """
    recovery = situation.fabric.recovery
    lost = [h for h in sorted(situation.holders) if h.uid in memory.interrupted]
    names = ", ".join(h.full_name for h in lost if h.domain_uid == domain_uid)
    if not names:
        return Readiness(is_ready=True, reason=RECOVERY if recovery else "", message=recovery)
    text = f"{memory.interruption} while pods used it, so their shared memory is lost; restart the pods of {names}"
    message = f"{text}; {recovery}" if recovery else text
    return Readiness(is_ready=True, reason=RESTARTED, message=message)


def _of_hosted(domain: FabricDomain, situation: Situation, memory: Memory) -> Readiness:
    """One domain at a time here too: the host's daemon has one channel, in which tenants would meet."""
    others = {
        h.domain_uid
        for h in situation.holders
        if h.is_admitted and h.domain_uid not in ("", domain.uid)
    }
    if others and domain.isolation is Isolation.DOMAIN:
        return _wait(
            "OtherDomainActive",
            f"this node serves ComputeDomain {', '.join(sorted(others))} for {blockers(situation, others)}",
        )
    if situation.imex is ImexState.READY:
        return _ready(domain.uid, situation, memory)
    return _wait(
        "HostImexNotReady",
        f"the host's own nvidia-imex is {situation.imex.value or 'in an unknown state'}; check nvidia-imex.service and"
        f" imexHostSocketPath{': ' if situation.imex_problem else ''}{situation.imex_problem}",
    )


def _of_managed(domain: FabricDomain, situation: Situation, memory: Memory) -> Readiness:
    wanted = run_for(domain, situation)
    if wanted is None:
        return _what_is_missing(domain, situation)
    started, unit = memory.started, situation.unit
    if situation.foreign and not unit.is_running:
        return _wait(
            "ForeignImex",
            f"{situation.foreign} has this machine's one IMEX session; run systemctl disable --now {situation.foreign}",
        )
    if started is None or not unit.is_running:
        is_lost = unit.is_running
        return _of_lost(situation) if is_lost else _of_stopped(domain, situation, memory)
    if not holds(started.run, domain.uid, situation):
        other = started.run.domain_uid
        return _wait(
            "OtherDomainActive",
            f"this node serves ComputeDomain {other or 'of isolation channel'} for {blockers(situation, [other])}",
        )
    if not serves(started.run, wanted):
        return _wait(
            "SlotChanged",
            f"IMEX runs with slot {started.run.slot} and port {started.run.port}, assigned are {wanted.slot} and"
            f" {wanted.port}; it is restarted when {blockers(situation, [domain.uid])} is released",
        )
    return _of_started(domain, situation, memory, started)


def _what_is_missing(domain: FabricDomain, situation: Situation) -> Readiness:
    spec = situation.spec
    if spec is None or spec.slot is None or spec.clique_id != situation.fabric.clique_id:
        return _wait(
            "WaitingForSlot",
            f"this node has no slot in clique {situation.fabric.clique_id} yet; if the clique is full, raise"
            " maxNodesPerDomain of the chart",
        )
    if spec.slot >= (count := slot_count_of(domain, situation)):
        return _wait(
            "DomainFull",
            f"this node has slot {spec.slot} of its clique, and IMEX of ComputeDomain {domain.namespace}/{domain.name}"
            f" runs with {count} slots; it takes more once its pods have ended on all nodes",
        )
    if not situation.addresses.chosen:
        message = (
            situation.addresses.message or f"no address for IMEX peers found; {ADDRESS_REMEDY}"
        )
        return _wait("NoAddress", message)
    return _wait(
        "WaitingForCertificate",
        "this node's certificate is not signed yet; if the controller issues none, set imexEncryption: disabled",
    )


def _of_stopped(domain: FabricDomain, situation: Situation, memory: Memory) -> Readiness:
    if memory.is_held:
        return _wait(
            "ImexHeld",
            f"{memory.last_exit} under running claims, and imexAfterAbruptEnd is hold; delete the pods of"
            f" {blockers(situation, [domain.uid])}",
        )
    chosen = target(situation, memory)
    others = {h.domain_uid for h in situation.holders if h.is_admitted} - {domain.uid}
    if chosen is None and others:
        names = blockers(situation, others)
        return _wait(
            "OtherDomainActive", f"another ComputeDomain uses this node until {names} is released"
        )
    if chosen is not None and not holds(chosen, domain.uid, situation):
        return _wait(
            "OtherDomainActive", f"ComputeDomain {chosen.domain_uid} is served first on this node"
        )
    if memory.failures:
        return _wait("ImexFailed", f"{memory.last_exit}; it is restarted with backoff")
    return _wait("ImexStarting", "nvidia-imex is being started")


def _of_lost(situation: Situation) -> Readiness:
    """The state was lost, and with it the run of the daemon."""
    users = ", ".join(h.full_name for h in sorted(situation.holders) if h.is_admitted)
    until = f"{users} is released" if users else "the plugin has reported its claims"
    return _wait(
        "ImexUnknown",
        "the supervisor's state was lost, and with it the configuration of the running nvidia-imex: it is not touched"
        f" until {until}",
    )


def _of_started(
    domain: FabricDomain, situation: Situation, memory: Memory, started: Started
) -> Readiness:
    if situation.addresses.has_lost(started.run.address):
        return _wait(
            "AddressLost",
            f"nvidia-imex listens on {started.run.address}, which this host no longer has; it is restarted with"
            f" {situation.addresses.chosen or 'the next address'} when {blockers(situation, [domain.uid])} is released",
        )
    if started.invocation_id != situation.unit.invocation_id or situation.imex is ImexState.UNSET:
        return _wait("ImexStarting", "nvidia-imex is starting")
    if situation.imex is ImexState.READY:
        return _ready(domain.uid, situation, memory)
    if situation.imex is ImexState.UNAVAILABLE:
        why = f": {situation.imex_problem}" if situation.imex_problem else ""
        return _wait("ImexUnresponsive", f"nvidia-imex runs but does not answer{why}")
    return _wait("ImexStarting", f"nvidia-imex is {situation.imex.value}")
