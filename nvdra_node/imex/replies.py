"""What the supervisor tells: the state after a turn, and what a claim hears that asks. Frozen data. Pure.

Made by ``supervisor``; read by ``report``, ``service``, ``watches`` and the metrics.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from nvdra_core.api.fabric import FabricDomain, FabricNodeSpec, domain_named
from nvdra_node.imex import readiness
from nvdra_node.imex.daemon.ctl import ImexDomainStatus
from nvdra_node.imex.model import Holder, Memory, Readiness, Run, Situation

OBSERVATION_MAX_AGE_S = 15.0
"""So long after the last turn that succeeded, what it found counts no more. Less than the first report waits."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known after a turn, for the status and for those who watch."""

    situation: Situation
    memory: Memory
    domains: tuple[tuple[str, Readiness], ...] = ()
    """Of every domain that is held here, by UID."""
    view: ImexDomainStatus | None = None
    generation: int = 0
    is_seen: bool = True
    """False before the first turn: nothing is known."""

    @property
    def run(self) -> Run | None:
        """What runs now."""
        started = self.memory.started
        return started.run if started is not None and self.situation.unit.is_running else None


class JoinReply(msgspec.Struct, frozen=True):
    """What a claim is told. ``domain`` None: the controller does not name it."""

    readiness: Readiness
    domain: FabricDomain | None
    refused: str = ""
    """Why it may never join; empty: it may."""
    has_fabric: bool = True


def refusal(claim: Holder, spec: FabricNodeSpec | None, known: Iterable[Holder]) -> str:
    """Why a claim may not join its domain, now or ever; empty: it may, or has been let in already."""
    domain = domain_named(spec, claim.domain_uid) if spec is not None else None
    if domain is None:
        return ""
    is_admitted = any(holder.is_admitted for holder in known if holder.uid == claim.uid)
    if domain.namespace != claim.namespace:
        return (
            f"ComputeDomain {domain.uid} is in namespace {domain.namespace}, and the claim is in"
            f" {claim.namespace}: a claim may join domains of its own namespace only"
        )
    if domain.deleting and not is_admitted:
        return f"ComputeDomain {domain.namespace}/{domain.name} is being deleted"
    return ""


def reply_to(claim: Holder, situation: Situation, memory: Memory) -> JoinReply:
    """What a claim is told in a situation."""
    spec = situation.spec
    domain = domain_named(spec, claim.domain_uid) if spec is not None else None
    has_fabric = bool(situation.fabric.clique_id)
    if refused := refusal(claim, spec, situation.holders):
        reason = "DomainDeleting" if domain is not None and domain.deleting else "WrongNamespace"
        return JoinReply(Readiness(is_ready=False, reason=reason), domain, refused, has_fabric)
    state = readiness.of_domain(claim.domain_uid, situation, memory)
    return JoinReply(state, domain, has_fabric=has_fabric)


def unverified(joined: JoinReply, problem: str) -> JoinReply:
    """The answer where the daemon has not been looked at since the question, or cannot be (``problem``).

    What else keeps a claim waiting stands.
    """
    if not joined.readiness.is_ready and not problem:
        return joined
    text = f"it cannot be looked at: {problem}" if problem else "it is being looked at"
    return not_ready(joined, "ImexUnknown", f"whether nvidia-imex is well is not known: {text}")


def unobserved(snapshot: Snapshot, situation: Situation, problem: str) -> Snapshot:
    """The state while no turn succeeds: claims go on to be reported, as they hold their domains, and none is ready."""
    text = f"whether nvidia-imex is well is not known: it cannot be looked at: {problem}"
    unknown = Readiness(is_ready=False, reason="ImexUnknown", message=text)
    held = sorted({h.domain_uid for h in situation.holders if h.domain_uid})
    domains = tuple((uid, unknown) for uid in held)
    return replace(snapshot, situation=situation, domains=domains)


def not_ready(joined: JoinReply, reason: str, message: str) -> JoinReply:
    """The same with another readiness: not."""
    state = Readiness(is_ready=False, reason=reason, message=message)
    return replace(joined, readiness=state)
