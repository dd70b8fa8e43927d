"""Parts that several services have: those made of functions, and the HTTP endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from prometheus_client import CollectorRegistry

from nvdra_core.runtime import endpoint
from nvdra_core.runtime.clock import Deadline
from nvdra_core.runtime.service import Part


def _nothing() -> None:
    return None


def _nothing_by(deadline: Deadline) -> None:
    return None


class FunctionPart(msgspec.Struct, frozen=True, kw_only=True):
    """See nvdra_core.runtime.service.Part."""

    name: str
    begin: Callable[[], None] = _nothing
    end: Callable[[Deadline], None] = _nothing_by

    def start(self) -> None:
        """See Part."""
        self.begin()

    def stop(self, deadline: Deadline) -> None:
        """See Part."""
        self.end(deadline)


class Health(msgspec.Struct, frozen=True):
    """What the health endpoint says."""

    problems: Callable[[], list[str]]
    notes: Callable[[], Sequence[str]] = tuple


def endpoint_parts(
    address: str, metrics_path: str, health: Health, registry: CollectorRegistry
) -> list[Part]:
    """Health at ``/healthz`` and, unless their path is empty, metrics; nothing without an address."""
    if not address:
        return []
    routes = {"/healthz": endpoint.health_route(health.problems, health.notes)}
    if metrics_path:
        routes[metrics_path] = endpoint.metrics_route(registry)
    return [endpoint.Endpoint(endpoint.Address.parse(address), routes)]
