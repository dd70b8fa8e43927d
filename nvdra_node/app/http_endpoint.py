"""The HTTP endpoint of a node's service: ``/healthz`` and, unless their path is empty, metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from prometheus_client import CollectorRegistry

from nvdra_core.runtime import endpoint
from nvdra_core.runtime.service import Component


class Health(msgspec.Struct, frozen=True):
    """What ``/healthz`` reports."""

    problems: Callable[[], list[str]]
    notes: Callable[[], Sequence[str]] = tuple


def endpoint_components(
    address: str, metrics_path: str, health: Health, registry: CollectorRegistry
) -> list[Component]:
    """The endpoint; nothing without an address. Raises ConfigError."""
    if not address:
        return []
    routes = {"/healthz": endpoint.health_route(health.problems, health.notes)}
    if metrics_path:
        routes[metrics_path] = endpoint.metrics_route(registry)
    return [endpoint.Endpoint(endpoint.Address.parse(address), routes)]
