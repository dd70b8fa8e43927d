"""When a ComputeDomain may go: when no claim holds it any more. Says who does. Pure.

Upstream ends IMEX under running pods; here the finalizer stays until every node has let go. A claim
holds the domain while pods have it reserved, or while a node reports it as prepared. A node that was
deleted, or that an administrator declares out of service, holds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvdra_cluster.decide import readiness
from nvdra_cluster.decide.model import FORCE_ANNOTATION, DomainSnapshot, MemberView

NAMED = 5
"""Holders that a message names; the rest is counted."""


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """Somebody who keeps a domain from going."""

    claim: str
    node: str = ""
    pods: tuple[str, ...] = ()
    is_node_lost: bool = False

    def __str__(self) -> str:
        text = f"claim {self.claim}"
        if self.node:
            text += f" on node {self.node}"
        if self.is_node_lost:
            text += " (lost; delete the Node, or taint it out-of-service, when it is off)"
        if self.pods:
            text += f" (pods {', '.join(self.pods[:NAMED])})"
        return text


def holders(snapshot: DomainSnapshot) -> tuple[Holder, ...]:
    """Everybody who holds the domain, by claim. Empty: it may go."""
    found: dict[tuple[str, str], Holder] = {}
    domain = snapshot.domain
    everybody = (*snapshot.members, *snapshot.reporters)
    alive = {member.node: member for member in everybody if may_hold(member)}
    for claim in snapshot.claims:
        if claim.users and claim.namespace == domain.namespace:
            found[claim.uid, claim.node] = Holder(
                claim.path, claim.node, claim.users, _is_lost(alive.get(claim.node))
            )
    for member in alive.values():
        if member.is_refuted:
            continue
        report = readiness.report_of(member.fabric, domain.uid)
        for held in report.claims if report else ():
            holder = Holder(f"{held.namespace}/{held.name}", member.node, (), member.is_lost)
            found.setdefault((held.uid, member.node), holder)
    return tuple(sorted(found.values()))


def _is_lost(member: MemberView | None) -> bool:
    return member is not None and member.is_lost


def may_hold(member: MemberView) -> bool:
    """Whether what the node reported may still be true."""
    return member.has_node and not member.is_out_of_service


def describe(found: tuple[Holder, ...]) -> str:
    """The message for users, bounded."""
    named = "; ".join(str(holder) for holder in found[:NAMED])
    rest = len(found) - NAMED
    more = f"; and {rest} more" if rest > 0 else ""
    return (
        f"held by {named}{more}. Delete the pods, "
        f"or force it with the annotation {FORCE_ANNOTATION}=true"
    )
