"""Snapshot of the supervisor's state after a pass, and the reply to a claim that joins. Frozen values. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from nvdra_core.api.fabric import FabricDomain, FabricNodeSpec, domain_named
from nvdra_node.imex import readiness
from nvdra_node.imex.daemon.ctl import ImexDomainStatus
from nvdra_node.imex.model import Holder, Memory, Readiness, Run, Situation

OBSERVATION_MAX_AGE_S = 15.0
"""Age at which the last successful observation expires. Less than ``FIRST_OBSERVATION_S`` of the report."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state after a pass, for the FabricNode's status, watchers and metrics."""

    situation: Situation
    memory: Memory
    domains: tuple[tuple[str, Readiness], ...] = ()
    """Readiness of every domain with a holder, by UID."""
    view: ImexDomainStatus | None = None
    generation: int = 0
    is_seen: bool = True
    """False before the first pass: nothing is known."""

    @property
    def run(self) -> Run | None:
        """The run of the running daemon."""
        started = self.memory.started
        return started.run if started is not None and self.situation.unit.is_running else None


class JoinReply(msgspec.Struct, frozen=True):
    """Reply to a claim. ``domain`` None: the FabricNode does not name it."""

    readiness: Readiness
    domain: FabricDomain | None
    refused: str = ""
    """Why it may never join; empty: it may."""
    has_fabric: bool = True


def refusal(claim: Holder, spec: FabricNodeSpec | None, known: Iterable[Holder]) -> str:
    """Why a claim may never join its domain; empty: it may, or is admitted already."""
    domain = domain_named(spec, claim.domain_uid) if spec is not None else None
    if domain is None:
        return ""
    is_admitted = any(holder.is_admitted for holder in known if holder.uid == claim.uid)
    if domain.namespace != claim.namespace:
        return (
            f"ComputeDomain {domain.uid} is in namespace {domain.namespace}, the claim in {claim.namespace}; a claim"
            " may join domains of its own namespace only"
        )
    if domain.deleting and not is_admitted:
        return f"ComputeDomain {domain.namespace}/{domain.name} is being deleted"
    return ""


def reply_to(claim: Holder, situation: Situation, memory: Memory) -> JoinReply:
    """The reply to a claim in a situation."""
    spec = situation.spec
    domain = domain_named(spec, claim.domain_uid) if spec is not None else None
    has_fabric = bool(situation.fabric.clique_id)
    if refused := refusal(claim, spec, situation.holders):
        reason = "DomainDeleting" if domain is not None and domain.deleting else "WrongNamespace"
        return JoinReply(Readiness(is_ready=False, reason=reason), domain, refused, has_fabric)
    state = readiness.of_domain(claim.domain_uid, situation, memory)
    return JoinReply(state, domain, has_fabric=has_fabric)


def unverified(reply: JoinReply, problem: str) -> JoinReply:
    """The reply while no pass has observed the daemon since the claim asked, or none can (``problem``).

    Another reason to wait stands.
    """
    if not reply.readiness.is_ready and not problem:
        return reply
    why = problem or "the check is in progress"
    return not_ready(reply, "ImexUnknown", f"the state of nvidia-imex is unknown: {why}")


def unobserved(snapshot: Snapshot, situation: Situation, problem: str) -> Snapshot:
    """The snapshot while passes fail: claims are still reported, as they hold their domains; no domain is ready."""
    text = f"the state of nvidia-imex is unknown: {problem}"
    unknown = Readiness(is_ready=False, reason="ImexUnknown", message=text)
    held = sorted({h.domain_uid for h in situation.holders if h.domain_uid})
    domains = tuple((uid, unknown) for uid in held)
    return replace(snapshot, situation=situation, domains=domains)


def not_ready(reply: JoinReply, reason: str, message: str) -> JoinReply:
    """The reply with a reason not to be ready."""
    state = Readiness(is_ready=False, reason=reason, message=message)
    return replace(reply, readiness=state)
