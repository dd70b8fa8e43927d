"""When a ComputeDomain may go: when no claim holds it any more. Says who does. Pure.

Upstream ends IMEX under running pods; here the finalizer stays until every node has let go. A claim
holds the domain while pods have it reserved, or while a node reports it as prepared. A node that was
deleted, or that an administrator declares out of service, holds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nvdra_cluster.decide.domain import readiness
from nvdra_cluster.decide.model import FORCE_ANNOTATION, DomainSnapshot, MemberView

IGNORED = "ReportIgnored"
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
        if not member.is_refuted:
            for uid, holder in _reported(member, domain.uid):
                found.setdefault((uid, member.node), holder)
    return tuple(sorted(found.values()))


def ignored(snapshot: DomainSnapshot) -> tuple[Holder, ...]:
    """Reports that would hold the domain, and that no claim confirms."""
    refuted = (member for member in snapshot.reporters if member.is_refuted and may_hold(member))
    uid = snapshot.domain.uid
    return tuple(sorted(holder for member in refuted for _, holder in _reported(member, uid)))


def _reported(member: MemberView, uid: str) -> Iterator[tuple[str, Holder]]:
    """What a node reports to hold, by the claim's UID."""
    report = readiness.report_of(member.fabric, uid)
    for held in report.claims if report else ():
        name = f"{held.namespace}/{held.name}"
        yield held.uid, Holder(name, member.node, (), member.is_lost)


def _is_lost(member: MemberView | None) -> bool:
    return member is not None and member.is_lost


def may_hold(member: MemberView) -> bool:
    """Whether what the node reported may still be true."""
    return member.has_node and not member.is_out_of_service


def describe(found: tuple[Holder, ...]) -> str:
    """The message for users, bounded."""
    return (
        f"held by {_named(found)}. Delete the pods, "
        f"or force it with the annotation {FORCE_ANNOTATION}=true"
    )


def describe_ignored(found: tuple[Holder, ...]) -> str:
    """What a node reported that did not hold the domain, bounded."""
    return (
        f"ignored reports of {_named(found)}: no such claim is there, or it is not allocated on that node. Its pods "
        "were deleted by force and have not ended, or its credential is in wrong hands"
    )


def _named(found: tuple[Holder, ...]) -> str:
    named = "; ".join(str(holder) for holder in found[:NAMED])
    rest = len(found) - NAMED
    return f"{named}; and {rest} more" if rest > 0 else named
