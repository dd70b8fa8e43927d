"""Kubernetes Events of a ComputeDomain, emitted when a condition changes in a notable way. Pure."""

from __future__ import annotations

import hashlib

from nvdra_cluster.decide.model import DomainView
from nvdra_cluster.decide.writes import EVENTS, Create
from nvdra_core.api import API_VERSION, ComputeDomainStatus, Condition

COMPONENT = "nvdra-controller"
MESSAGE_LIMIT = 1000
EVENT_TYPES = {
    ("Accepted", "False"): "Warning",
    ("TemplatesReady", "False"): "Warning",
    ("Ready", "True"): "Normal",
    ("Degraded", "True"): "Warning",
    ("DeletionBlocked", "True"): "Warning",
}
"""Condition and status to the type of its event."""
TRANSIENT = frozenset({"Pending", "Deleting"})
"""Reasons without an event."""


def for_status(domain: DomainView, found: ComputeDomainStatus, now: str) -> list[Create]:
    """Events for conditions of ``found`` that are new against the domain's status."""
    known = {(c.type, c.status, c.reason) for c in domain.status.conditions}
    events: dict[str, Create] = {}
    for condition in found.conditions:
        kind = EVENT_TYPES.get((condition.type, condition.status))
        is_new = (condition.type, condition.status, condition.reason) not in known
        if kind and is_new and condition.reason not in TRANSIENT:
            # One cause shows in several conditions and gets one event.
            events.setdefault(condition.reason, Create(EVENTS, _body(domain, condition, kind, now)))
    return list(events.values())


def warning(domain: DomainView, reason: str, message: str, now: str) -> Create:
    """A warning event that belongs to no condition."""
    condition = Condition(type=reason, status="True", reason=reason, message=message)
    return Create(EVENTS, _body(domain, condition, "Warning", now))


def _body(domain: DomainView, condition: Condition, kind: str, now: str) -> dict[str, object]:
    what = f"{condition.type}/{condition.reason}/{condition.message}/{now}"
    digest = hashlib.sha256(f"{domain.uid}/{what}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{domain.name[:200]}.{digest}", "namespace": domain.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": "ComputeDomain",
            "namespace": domain.namespace,
            "name": domain.name,
            "uid": domain.uid,
        },
        "type": kind,
        "reason": condition.reason,
        "message": (condition.message or condition.type)[:MESSAGE_LIMIT],
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
