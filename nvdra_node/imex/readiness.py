"""How a domain is doing on this node, and why it is not ready. Pure. Called by ``supervisor`` and ``report``.

The message ends in a pod's event: it says what is waited for and, where somebody must act, what to do.
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
"""Reason of a domain whose claims may start, and whose earlier ones lost what they shared."""
RECOVERY = "GpuRecovery"
"""Reason of a domain whose claims may start although a GPU is not well."""
_FABRIC_REASONS = {
    FabricState.UNSET: ("WaitingForFabric", "the GPUs' NVLink fabric has not been looked at yet"),
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
            "the controller has not made this node's FabricNode yet; is it running?",
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
    """The controller does not say (any more) that the node takes part. Claims that were admitted go on."""
    started = memory.started
    is_served = started is not None and started.run.domain_uid == domain_uid
    if is_served and is_admitted(domain_uid, situation) and situation.imex is ImexState.READY:
        return Readiness(is_ready=True, reason="DomainGone", message="the ComputeDomain is gone")
    return _wait(
        "WaitingForDomain",
        f"the controller has not assigned ComputeDomain {domain_uid} to this node yet; does it exist, and is the"
        " controller running? The journal of nvdra-imex-supervisor says when this node may not read its FabricNode",
    )


def _ready(domain_uid: str, situation: Situation, memory: Memory) -> Readiness:
    """Claims may start. Reported besides: that IMEX was interrupted under others, as their shared memory is lost; and
    what a GPU asks for, as after an abrupt end the whole IMEX domain may have to be recovered. READY says neither.
    """
    recovery = situation.fabric.recovery
    lost = [h for h in sorted(situation.holders) if h.uid in memory.interrupted]
    names = ", ".join(f"{h.namespace}/{h.name}" for h in lost if h.domain_uid == domain_uid)
    if not names:
        return Readiness(is_ready=True, reason=RECOVERY if recovery else "", message=recovery)
    text = f"{memory.interruption} while pods used it: memory that they shared is lost; restart the pods of {names}"
    message = f"{text}; {recovery}" if recovery else text
    return Readiness(is_ready=True, reason=RESTARTED, message=message)


def _of_hosted(domain: FabricDomain, situation: Situation, memory: Memory) -> Readiness:
    """One domain at a time here too: all that the host's daemon serves have the same channel, so tenants would meet."""
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
        f"the host's own nvidia-imex is {situation.imex.value or 'not known'}: check nvidia-imex.service and"
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
            f"{situation.foreign} has this machine's one IMEX session: systemctl disable --now {situation.foreign}",
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
            f" {wanted.port}; it is restarted when {blockers(situation, [domain.uid])} is gone",
        )
    return _of_started(domain, situation, memory, started)


def _what_is_missing(domain: FabricDomain, situation: Situation) -> Readiness:
    spec = situation.spec
    if spec is None or spec.slot is None or spec.clique_id != situation.fabric.clique_id:
        return _wait(
            "WaitingForSlot",
            f"the controller has not given this node a slot in clique {situation.fabric.clique_id} yet; a clique"
            " that is full needs more slots (maxNodesPerDomain of the chart)",
        )
    if spec.slot >= (count := slot_count_of(domain, situation)):
        return _wait(
            "DomainFull",
            f"this node has slot {spec.slot} of its clique, and IMEX of ComputeDomain {domain.namespace}/{domain.name}"
            f" runs with {count} slots: it takes more when its pods have ended on all nodes at once",
        )
    if not situation.addresses.chosen:
        message = (
            situation.addresses.message or f"no address for IMEX peers was found; {ADDRESS_REMEDY}"
        )
        return _wait("NoAddress", message)
    return _wait(
        "WaitingForCertificate",
        "the controller has not signed this node's certificate yet; where it issues none, set imexEncryption: disabled",
    )


def _of_stopped(domain: FabricDomain, situation: Situation, memory: Memory) -> Readiness:
    if memory.is_held:
        return _wait(
            "ImexHeld",
            f"{memory.last_exit} under running claims, and imexAfterAbruptEnd is hold: delete the pods of"
            f" {blockers(situation, [domain.uid])}",
        )
    chosen = target(situation, memory)
    others = {h.domain_uid for h in situation.holders if h.is_admitted} - {domain.uid}
    if chosen is None and others:
        names = blockers(situation, others)
        return _wait(
            "OtherDomainActive", f"this node is another ComputeDomain's until {names} is gone"
        )
    if chosen is not None and not holds(chosen, domain.uid, situation):
        return _wait(
            "OtherDomainActive", f"ComputeDomain {chosen.domain_uid} came first on this node"
        )
    if memory.failures:
        return _wait("ImexFailed", f"{memory.last_exit}; it is started again after a pause")
    return _wait("ImexStarting", "nvidia-imex is being started")


def _of_lost(situation: Situation) -> Readiness:
    """Our state was lost: only those who use the daemon know which it is."""
    users = ", ".join(f"{h.namespace}/{h.name}" for h in sorted(situation.holders) if h.is_admitted)
    until = f"{users} is gone" if users else "it is known who uses it"
    return _wait(
        "ImexUnknown",
        "the supervisor's state was lost, and with it the configuration that nvidia-imex runs with: it is left as it"
        f" is until {until}",
    )


def _of_started(
    domain: FabricDomain, situation: Situation, memory: Memory, started: Started
) -> Readiness:
    if situation.addresses.has_lost(started.run.address):
        return _wait(
            "AddressLost",
            f"nvidia-imex listens on {started.run.address}, which this host has no more; it is started again with"
            f" {situation.addresses.chosen or 'the next address'} when {blockers(situation, [domain.uid])} is gone",
        )
    if started.invocation_id != situation.unit.invocation_id or situation.imex is ImexState.UNSET:
        return _wait("ImexStarting", "nvidia-imex is starting")
    if situation.imex is ImexState.READY:
        return _ready(domain.uid, situation, memory)
    if situation.imex is ImexState.UNAVAILABLE:
        why = f": {situation.imex_problem}" if situation.imex_problem else ""
        return _wait("ImexUnresponsive", f"nvidia-imex runs and gives no answer{why}")
    return _wait("ImexStarting", f"nvidia-imex is {situation.imex.value}")
