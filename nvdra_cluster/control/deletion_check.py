"""Reads once more what may still hold a ComputeDomain, right before it is let go. Called by ``loop``.

A watch may be behind, and a finalizer that is off cannot be put back. Read are the domain's claims, and the
reports of those nodes that were told of the domain: no other node prepares a claim of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nvdra_cluster.control.state import decode
from nvdra_cluster.control.state.cache import Cache
from nvdra_cluster.decide.model import DOMAIN_LABEL, DomainView
from nvdra_cluster.decide.writes import FABRIC_NODES
from nvdra_core.api.fabric import domain_named
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import Client
from nvdra_core.kube.resources import CLAIMS, JsonObject, Selector
from nvdra_core.runtime.clock import Clock, Deadline

ASK_TIMEOUT_S = 3.0
REPORTS_TIMEOUT_S = 30.0
"""For all reports of one domain: nobody else is served meanwhile, and the rest is tried again later."""
MANY = 200
"""From so many nodes on, all are listed, in pages: one by one they would take longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionCheck:
    """See the module."""

    cache: Cache
    client: Client
    clock: Clock
    observe_fabric: Callable[[JsonObject], None]
    forget_fabric: Callable[[str], None]

    def read(self, domain: DomainView) -> None:
        """Bring the cache up to date about the domain. Raises ApiError."""
        selector = Selector(labels=f"{DOMAIN_LABEL}={domain.uid}")
        deadline = Deadline(ASK_TIMEOUT_S, self.clock)
        claims = self.client.list(
            CLAIMS, namespace=domain.namespace, selector=selector, deadline=deadline
        )
        for obj in claims.items:
            self.cache.put_claim(decode.claim(obj))
        self._read_reports(domain.uid)

    def _read_reports(self, uid: str) -> None:
        with self.cache.lock:
            views = self.cache.fabrics.values()
            told = sorted(view.name for view in views if domain_named(view.spec, uid))
        deadline = Deadline(REPORTS_TIMEOUT_S, self.clock)
        if len(told) <= MANY:
            for name in told:
                self._read_report(name, min(ASK_TIMEOUT_S, deadline.remaining_s()))
            return
        for obj in self.client.list(FABRIC_NODES, deadline=deadline).items:
            self.observe_fabric(obj)

    def _read_report(self, name: str, timeout_s: float) -> None:
        try:
            obj = self.client.get(FABRIC_NODES, name, deadline=Deadline(timeout_s, self.clock))
        except ApiError as error:
            if error.status != 404 or error.api_reason != "NotFound":
                raise
            self.forget_fabric(name)
        else:
            self.observe_fabric(obj)
