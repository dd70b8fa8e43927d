"""When a ComputeDomain may be deleted: when no claim holds it; and who holds it. Pure.

Upstream ends IMEX under running pods; here the finalizer stays until every node has released the domain. A claim holds
it while pods have it reserved, or while a node reports it as prepared. Deleted nodes and nodes out of service hold
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nvdra_cluster.decide.domain import readiness
from nvdra_cluster.decide.model import FORCE_ANNOTATION, DomainSnapshot, MemberView

IGNORED = "ReportIgnored"
NAMED = 5
"""Holders named in a message; the others are counted."""


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A claim that holds a domain."""

    claim: str
    node: str = ""
    pods: tuple[str, ...] = ()
    is_node_lost: bool = False

    def __str__(self) -> str:
        text = f"claim {self.claim}"
        if self.node:
            text += f" on node {self.node}"
        if self.is_node_lost:
            text += " (lost; if it is powered off, delete the Node or taint it out-of-service)"
        if self.pods:
            text += f" (pods {', '.join(self.pods[:NAMED])})"
        return text


def holders(snapshot: DomainSnapshot) -> tuple[Holder, ...]:
    """All holders of the domain, by claim. Empty: it may be deleted."""
    found: dict[tuple[str, str], Holder] = {}
    domain = snapshot.domain
    all_members = (*snapshot.members, *snapshot.reporters)
    alive = {member.node: member for member in all_members if may_hold(member)}
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
    """Reports that no claim confirms and that would hold the domain."""
    refuted = (member for member in snapshot.reporters if member.is_refuted and may_hold(member))
    uid = snapshot.domain.uid
    return tuple(sorted(holder for member in refuted for _, holder in _reported(member, uid)))


def _reported(member: MemberView, uid: str) -> Iterator[tuple[str, Holder]]:
    """The claims in a node's report, by UID."""
    report = readiness.report_of(member.fabric, uid)
    for held in report.claims if report else ():
        name = f"{held.namespace}/{held.name}"
        yield held.uid, Holder(name, member.node, (), member.is_lost)


def _is_lost(member: MemberView | None) -> bool:
    return member is not None and member.is_lost


def may_hold(member: MemberView) -> bool:
    """Whether the node's report may still be true."""
    return member.has_node and not member.is_out_of_service


def describe(found: tuple[Holder, ...]) -> str:
    """Message for users, of bounded length."""
    return (
        f"held by {_named(found)}. Delete the pods, "
        f"or force it with the annotation {FORCE_ANNOTATION}=true"
    )


def describe_ignored(found: tuple[Holder, ...]) -> str:
    """Message about ignored reports, of bounded length."""
    return (
        f"ignored reports of {_named(found)}: the claim does not exist or is not allocated on that node. Its pods "
        "were force-deleted and still run, or its credential was stolen"
    )


def _named(found: tuple[Holder, ...]) -> str:
    named = "; ".join(str(holder) for holder in found[:NAMED])
    others = len(found) - NAMED
    return f"{named}; and {others} more" if others > 0 else named
