"""Reads from the API what may still hold a ComputeDomain, right before its finalizer is removed.

A watch may lag, and a removed finalizer cannot be put back. Reads the domain's claims, and the reports of the nodes
whose specs name the domain: no other node prepares its claims. Called by ``controller``.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvdra_cluster.control.state import decode
from nvdra_cluster.control.state.cache import Cache
from nvdra_cluster.control.state.fabric_handler import FabricNodeHandler
from nvdra_cluster.decide.model import DOMAIN_LABEL, DomainView
from nvdra_cluster.decide.writes import FABRIC_NODES
from nvdra_core.api.fabric import domain_named
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import ResourceClient
from nvdra_core.kube.resources import CLAIMS, Selector
from nvdra_core.runtime.clock import Clock, Deadline

READ_TIMEOUT_S = 3.0
REPORTS_TIMEOUT_S = 30.0
"""For all reports of one domain: no other key is processed meanwhile; unread reports are read at the retry."""
SINGLE_READ_LIMIT = 200
"""Above this number of nodes all FabricNodes are listed in pages, which is faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionCheck:
    """See the module."""

    cache: Cache
    client: ResourceClient
    clock: Clock
    fabric_handler: FabricNodeHandler

    def refresh(self, domain: DomainView) -> None:
        """Update the cache with everything that may hold the domain. Raises ApiError."""
        selector = Selector(labels=f"{DOMAIN_LABEL}={domain.uid}")
        deadline = Deadline(READ_TIMEOUT_S, self.clock)
        claims = self.client.list(
            CLAIMS, namespace=domain.namespace, selector=selector, deadline=deadline
        )
        for obj in claims.items:
            self.cache.put_claim(decode.claim(obj))
        self._read_reports(domain.uid)

    def _read_reports(self, uid: str) -> None:
        with self.cache.lock:
            views = self.cache.fabrics.values()
            assigned = sorted(view.name for view in views if domain_named(view.spec, uid))
        deadline = Deadline(REPORTS_TIMEOUT_S, self.clock)
        if len(assigned) <= SINGLE_READ_LIMIT:
            for name in assigned:
                self._read_report(name, min(READ_TIMEOUT_S, deadline.remaining_s()))
            return
        for obj in self.client.list(FABRIC_NODES, deadline=deadline).items:
            self.fabric_handler.on_response(obj)

    def _read_report(self, name: str, timeout_s: float) -> None:
        try:
            obj = self.client.get(FABRIC_NODES, name, deadline=Deadline(timeout_s, self.clock))
        except ApiError as error:
            if error.status != 404 or error.api_reason != "NotFound":
                raise
            self.fabric_handler.on_delete(name)
        else:
            self.fabric_handler.on_response(obj)
