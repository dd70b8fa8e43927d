"""How far a node's report of a domain counts, given the evidence for it. Pure.

A watched claim confirms a report at once; other reports are verified by reading their claims. Until then a report
makes no member, but holds the domain. A refuted report counts for nothing where the node's spec has not named the
domain lately. Where it has, pods may outlive their claims: the report then holds a domain that is being deleted for
UNCONFIRMED_HOLD_S, and the spec goes on to name the domain, so its IMEX and port stay. A lost node cannot report
anything new: its reports hold until an administrator removes it.
"""

from __future__ import annotations

from dataclasses import dataclass

UNCONFIRMED_HOLD_S = 600.0


@dataclass(frozen=True, slots=True)
class UnverifiedReport:
    """A report whose claims must be read from the API."""

    node: str
    domain_uid: str
    is_urgent: bool
    """The deletion of the domain waits for the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportEvidence:
    """A node's report of a domain, with the evidence for it."""

    node: str
    domain_uid: str
    has_claims: bool = False
    """The report names a claim in the domain's namespace."""
    is_watched: bool = False
    """A watched claim is allocated on the node."""
    is_assigned: bool = False
    """The node's spec names the domain."""
    was_assigned: bool = False
    """It did so a short time ago."""
    is_confirmed: bool = False
    """A claim that was read from the API confirms the report."""
    refuted_s: float | None = None
    """Seconds since no claim confirmed the report."""
    is_lost: bool = False
    """The node's heartbeats stopped."""

    @property
    def may_have_started(self) -> bool:
        """Whether the node may act on a spec that named the domain."""
        return self.is_assigned or self.was_assigned

    def request(self, *, is_urgent: bool) -> UnverifiedReport:
        """The request to verify this report."""
        return UnverifiedReport(self.node, self.domain_uid, is_urgent)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether the report counts, and what to verify, if anything."""

    counts: bool
    unverified: UnverifiedReport | None = None


def as_member(evidence: ReportEvidence) -> Judgement:
    """Whether the report alone makes the node a member of the domain."""
    if not evidence.has_claims:
        return Judgement(False)
    if evidence.is_assigned or evidence.is_confirmed:
        return Judgement(True)
    is_open = evidence.refuted_s is None
    return Judgement(False, evidence.request(is_urgent=False) if is_open else None)


def as_holder(evidence: ReportEvidence) -> Judgement:
    """Whether the report holds a domain that is being deleted."""
    if evidence.is_watched:
        return Judgement(True)
    unverified = evidence.request(is_urgent=True)
    if evidence.refuted_s is None:
        return Judgement(True, unverified)
    is_held = evidence.may_have_started and (
        evidence.is_lost or evidence.refuted_s < UNCONFIRMED_HOLD_S
    )
    return Judgement(is_held, unverified)


def as_number_holder(evidence: ReportEvidence) -> Judgement:
    """Whether the node may still use the port or channel of a domain that was deleted."""
    if evidence.may_have_started:
        return Judgement(evidence.has_claims or evidence.is_lost)
    if not evidence.has_claims or evidence.refuted_s is not None:
        return Judgement(False)
    return Judgement(True, evidence.request(is_urgent=True))
