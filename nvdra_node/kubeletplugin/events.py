"""Kubernetes Events of this node: the API that takes them and their JSON. Used for events of pods and of the Node."""

from __future__ import annotations

import time
from typing import Any, Protocol

import msgspec

from nvdra_core.kube.resources import Resource
from nvdra_core.runtime.clock import Deadline

JsonObject = dict[str, Any]
MESSAGE_LIMIT = 1000
_DEFAULT_NAMESPACE = "default"
"""Namespace of events about objects without one."""


class EventApi(Protocol):
    """The part of ``nvdra_core.kube.client.Client`` that is needed."""

    def create(
        self, resource: Resource, body: JsonObject, *, deadline: Deadline | None = None
    ) -> JsonObject:
        """Create an object. Raises ApiError."""


class EventSource(msgspec.Struct, frozen=True):
    """Who writes the events. The chart's policies refuse those in another node's name."""

    component: str
    node: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What an event says."""

    involved: JsonObject
    """Reference to the object: kind, name, uid, namespace."""
    type: str
    """Normal or Warning."""
    reason: str
    message: str
    at_s: float
    """Wall clock."""


def to_json(event: Event, source: EventSource) -> JsonObject:
    """The v1 Event. Pure."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(event.at_s))
    name = f"{event.involved['name'][:200]}.{int(event.at_s * 1e9):x}"
    namespace = event.involved.get("namespace", _DEFAULT_NAMESPACE)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {"apiVersion": "v1", **event.involved},
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:MESSAGE_LIMIT],
        "source": {"component": source.component, "host": source.node},
        "reportingComponent": source.component,
        "reportingInstance": source.node,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
