"""Reconciles one ComputeDomain: the writes between its observed and its wanted state. Pure.

A domain in use has finalizer, template, cliques and status. A deleted one loses its template at once (no new claims),
waits for its holders, then loses its cliques and the finalizer. Each step follows from the observed state alone, so a
controller can start in the middle.
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
"""Nodes listed in a status, as an API object is limited to 1.5 MB. Counts and conditions cover all."""


def reconcile(snapshot: DomainSnapshot, settings: FabricSettings, now: str) -> list[Write]:
    """The writes for one domain, in order; empty when nothing has to change."""
    domain = snapshot.domain
    found = status.decide(snapshot, settings, now)
    if domain.is_deleting:
        return _end(snapshot, found, settings, now)
    report = _status_writes(domain, found, now)
    if status.refusal(snapshot, settings) is not None:
        return _without_templates(snapshot) + report
    first: list[Write] = []
    if FINALIZER not in domain.finalizers:
        first.append(_finalizers(domain, (*domain.finalizers, FINALIZER)))
    first += cliques.reconcile(snapshot, found.nodes, settings)
    made = templates.reconcile(snapshot, settings)
    if snapshot.template_problem is not None:
        return first + report + made  # a creation that fails again must not hide the reason
    return first + made + report


def may_go(snapshot: DomainSnapshot) -> bool:
    """Whether a domain that is being deleted has no holder, or is forced."""
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
    # A merge patch keeps omitted fields, so a missing assignment is written as null.
    patch = {"metadata": {"uid": domain.uid}, "status": msgspec.to_builtins(found)}
    return [
        Merge(_STATUS, domain.namespace, domain.name, patch),
        *events.for_status(domain, found, now),
    ]
