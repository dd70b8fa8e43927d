"""One ComputeDomain: what is there against what should be, as writes. Pure; called by ``control.reconciler``.

A living domain gets its finalizer, its template, its cliques and its status. A dying one loses its
template at once (no new claims), then waits for those who hold it, then loses its cliques and the
finalizer. Every step is taken from what is there, so a controller that starts in the middle goes on.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from nvdra_cluster.decide.domain import cliques, deletion, events, status, templates
from nvdra_cluster.decide.model import FINALIZER, DomainSnapshot, DomainView
from nvdra_cluster.decide.writes import DOMAINS, Merge, Write
from nvdra_cluster.settings import FabricSettings
from nvdra_core.api import ComputeDomainStatus

_STATUS = DOMAINS.sub("status")
MAX_LISTED = 5000
"""Nodes in a status: an object of the API has 1.5 MB. The counts and conditions speak of all."""


def reconcile(snapshot: DomainSnapshot, settings: FabricSettings, now: str) -> list[Write]:
    """All writes for one domain, in the order they must be done in. None when all is as it should be."""
    domain = snapshot.domain
    found = status.decide(snapshot, settings, now)
    if domain.is_deleting:
        return _end(snapshot, found, settings, now)
    told = _status_writes(domain, found, now)
    if status.refusal(snapshot, settings) is not None:
        return _without_templates(snapshot) + told
    first: list[Write] = []
    if FINALIZER not in domain.finalizers:
        first.append(_finalizers(domain, (*domain.finalizers, FINALIZER)))
    first += cliques.reconcile(snapshot, found.nodes, settings)
    made = templates.reconcile(snapshot, settings)
    if snapshot.template_problem is not None:
        return first + told + made  # what failed before may fail again, and must not hide why
    return first + made + told


def may_go(snapshot: DomainSnapshot) -> bool:
    """Whether a domain that is being deleted is held by nobody, or forced."""
    return snapshot.domain.is_forced or not deletion.holders(snapshot)


def _end(
    snapshot: DomainSnapshot, found: ComputeDomainStatus, settings: FabricSettings, now: str
) -> list[Write]:
    domain = snapshot.domain
    writes = _without_templates(snapshot)
    if not may_go(snapshot):
        writes += cliques.reconcile(snapshot, found.nodes, settings)
        return writes + _status_writes(domain, found, now)
    writes += cliques.remove(snapshot.cliques, settings)
    if FINALIZER in domain.finalizers:
        if found_false := deletion.ignored(snapshot):
            text = deletion.describe_ignored(found_false)
            writes.append(events.warning(domain, deletion.IGNORED, text, now))
        left = tuple(name for name in domain.finalizers if name != FINALIZER)
        writes.append(_finalizers(domain, left))
    return writes


def _without_templates(snapshot: DomainSnapshot) -> list[Write]:
    ours = [view for view in snapshot.templates if templates.is_ours(view)]
    return [write for view in ours for write in templates.remove(view)]


def _finalizers(domain: DomainView, names: tuple[str, ...]) -> Merge:
    metadata: dict[str, Any] = {
        "uid": domain.uid,
        "resourceVersion": str(domain.version),
        "finalizers": list(names) or None,
    }
    return Merge(DOMAINS, domain.namespace, domain.name, {"metadata": metadata})


def _status_writes(domain: DomainView, found: ComputeDomainStatus, now: str) -> list[Write]:
    if len(found.nodes) > MAX_LISTED:
        found = replace(found, nodes=found.nodes[:MAX_LISTED])
    if found == domain.status:
        return []
    # A merge patch keeps what is not named: a missing assignment must be said.
    patch = {"metadata": {"uid": domain.uid}, "status": msgspec.to_builtins(found)}
    return [
        Merge(_STATUS, domain.namespace, domain.name, patch),
        *events.for_status(domain, found, now),
    ]
