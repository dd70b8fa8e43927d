"""``status`` of a ComputeDomain: readiness, nodes, counts, conditions. Pure.

Ready means: at least ``numNodes`` nodes and at least one take part, and all of them are ready. Upstream also calls a
domain without nodes Ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from nvdra_cluster.decide import assignments
from nvdra_cluster.decide.domain import connections, deletion, readiness, templates
from nvdra_cluster.decide.domain.readiness import Readiness
from nvdra_cluster.decide.model import DomainSnapshot, MemberView, Problem
from nvdra_cluster.settings import FabricSettings, ImexMode
from nvdra_core.api import (
    AllocationMode,
    ComputeDomainNode,
    ComputeDomainState,
    ComputeDomainStatus,
    Condition,
    Isolation,
)

ACCEPTED = "Accepted"
TEMPLATES_READY = "TemplatesReady"
READY = "Ready"
DEGRADED = "Degraded"
DELETION_BLOCKED = "DeletionBlocked"
NO_INDEX = -1
"""``index`` of a node without fabric, as upstream writes it."""
NAMED = 3
"""Nodes named in a message; the others are counted."""


def decide(snapshot: DomainSnapshot, settings: FabricSettings, now: str) -> ComputeDomainStatus:
    """The wanted status; ``now`` (RFC 3339) dates conditions that change."""
    channel = snapshot.assignment.channel if snapshot.assignment else 0
    judged = {
        member.node: readiness.judge(member, snapshot.domain.uid, settings, channel)
        for member in snapshot.members
    }
    judged = connections.judge(snapshot.members, judged, snapshot.domain.uid, settings)
    nodes = tuple(
        _node(member, judged[member.node]) for member in sorted(snapshot.members, key=_by_name)
    )
    ready = [name for name, found in judged.items() if found.is_ready]
    conditions = _conditions(snapshot, settings, judged)
    is_ready = any(c.type == READY and c.status == "True" for c in conditions)
    return ComputeDomainStatus(
        status=ComputeDomainState.READY if is_ready else ComputeDomainState.NOT_READY,
        nodes=nodes,
        ready_nodes=len(ready),
        total_nodes=len(nodes),
        assignment=snapshot.assignment,
        conditions=_dated(conditions, snapshot.domain.status.conditions, now),
        observed_generation=snapshot.domain.generation,
    )


def refusal(snapshot: DomainSnapshot, settings: FabricSettings) -> Problem | None:
    """Why the domain cannot be served; None when it can."""
    domain = snapshot.domain
    if domain.spec is None:
        return Problem("InvalidSpec", domain.problem)
    is_all = domain.spec.channel.allocation_mode is AllocationMode.ALL
    if is_all and settings.isolation is Isolation.CHANNEL:
        return Problem(
            "AllocationModeNotAllowed",
            "allocationMode All: it would open channels of other domains, "
            "which isolation=channel forbids; use Single",
        )
    if snapshot.assignment is None:
        why = snapshot.number_problem or assignments.exhausted(settings)
        return Problem("NoNumberFree", why)
    return None


def _by_name(member: MemberView) -> str:
    return member.node


def _node(member: MemberView, found: Readiness) -> ComputeDomainNode:
    view = member.fabric
    has_slot = view is not None and view.status.clique_id and view.spec.slot is not None
    state = ComputeDomainState.READY if found.is_ready else ComputeDomainState.NOT_READY
    return ComputeDomainNode(
        name=member.node,
        ip_address=view.status.addresses[0] if view and view.status.addresses else "",
        clique_id=view.status.clique_id if view else "",
        index=view.spec.slot if has_slot and view and view.spec.slot is not None else NO_INDEX,
        status=state,
    )


def _conditions(
    snapshot: DomainSnapshot, settings: FabricSettings, judged: Mapping[str, Readiness]
) -> list[Condition]:
    problem = refusal(snapshot, settings)
    conditions = [
        _condition(ACCEPTED, problem, "Accepted", _numbers(snapshot, settings)),
        _condition(
            TEMPLATES_READY, problem or _template_problem(snapshot, settings), "Created", ""
        ),
        _condition(READY, problem or _unready(snapshot, judged), "AllNodesReady", ""),
        _degraded(judged),
    ]
    if snapshot.domain.is_deleting:
        conditions.append(_blocked(snapshot))
    generation = snapshot.domain.generation
    return [replace(condition, observed_generation=generation) for condition in conditions]


def _condition(kind: str, problem: Problem | None, reason: str, message: str) -> Condition:
    if problem is not None:
        return Condition(type=kind, status="False", reason=problem.reason, message=problem.message)
    return Condition(type=kind, status="True", reason=reason, message=message)


def _numbers(snapshot: DomainSnapshot, settings: FabricSettings) -> str:
    found = snapshot.assignment
    if found is None or settings.mode is ImexMode.HOST_MANAGED:
        return "served by the IMEX of the host"
    return f"IMEX port {found.port}, channel {found.channel}"


def _template_problem(snapshot: DomainSnapshot, settings: FabricSettings) -> Problem | None:
    if snapshot.domain.is_deleting:
        return Problem("Deleting", "the domain is being deleted; no new claims")
    if templates.in_force(snapshot, settings) is not None:
        return None
    obstacle = templates.obstacle(snapshot, settings)
    if obstacle is None:
        return snapshot.template_problem  # None: created by an earlier write of the same plan
    if templates.is_ours(obstacle) or obstacle.is_deleting:
        return Problem("Pending", "an old template is being deleted")
    return Problem(
        "NameTaken",
        f"ResourceClaimTemplate {obstacle.name} exists and is not ours; delete it or use another name",
    )


def _unready(snapshot: DomainSnapshot, judged: Mapping[str, Readiness]) -> Problem | None:
    wanted = snapshot.domain.spec.num_nodes if snapshot.domain.spec else 0
    if not judged:
        return Problem("NoNodes", "no node takes part yet: no pod has a claim of this domain")
    waiting = {name: found for name, found in judged.items() if not found.is_ready}
    if waiting:
        return Problem("NodesNotReady", f"not ready: {_named(waiting)}")
    if len(judged) < wanted:
        return Problem("WaitingForNodes", f"{len(judged)} of {wanted} nodes take part, all ready")
    return None


def _degraded(judged: Mapping[str, Readiness]) -> Condition:
    bad = {name: found for name, found in judged.items() if found.is_degraded}
    if not bad:
        return Condition(type=DEGRADED, status="False", reason="AsExpected")
    reason = min(found.reason for found in bad.values())
    return Condition(type=DEGRADED, status="True", reason=reason, message=_named(bad))


def _blocked(snapshot: DomainSnapshot) -> Condition:
    held = deletion.holders(snapshot)
    if not held or snapshot.domain.is_forced:
        return Condition(type=DELETION_BLOCKED, status="False", reason="NotHeld")
    message = deletion.describe(held)
    return Condition(type=DELETION_BLOCKED, status="True", reason="ClaimsInUse", message=message)


def _named(found: Mapping[str, Readiness]) -> str:
    """Some nodes with their reasons, of bounded length."""
    names = sorted(found)
    texts = [
        f"{name}: {found[name].reason}" + (f" ({found[name].message})" if found[name].message else "")
        for name in names[:NAMED]
    ]  # fmt: skip
    if len(names) > NAMED:
        texts.append(f"and {len(names) - NAMED} more nodes")
    return "; ".join(texts)


def _dated(
    conditions: Iterable[Condition], before: Iterable[Condition], now: str
) -> tuple[Condition, ...]:
    """The conditions with the time of their last transition."""
    old = {condition.type: condition for condition in before}
    dated = []
    for condition in conditions:
        known = old.get(condition.type)
        is_same = known is not None and known.status == condition.status
        since = known.last_transition_time if known is not None and is_same else now
        dated.append(replace(condition, last_transition_time=since or now))
    return tuple(dated)
