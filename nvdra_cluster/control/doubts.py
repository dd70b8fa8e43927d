"""Looks into reports of nodes that nothing confirms: is there a claim of that domain, allocated on that node?

A claim made by hand does not carry the domain's label, so no watch of ours sees it; the node's report
does. A node that was taken over can report what it likes, so the claim itself is read before a report
counts. What was found true need not be looked at again: it is recorded in the node's spec.
"""

from __future__ import annotations

from nvdra_cluster.control import wire
from nvdra_cluster.control.cache import Cache, Key, What
from nvdra_cluster.decide import readiness
from nvdra_core import log
from nvdra_core.api import FabricClaim
from nvdra_core.clock import Clock, Deadline
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import Client
from nvdra_core.kube.resources import CLAIMS

_LOG = log.get(__name__)
ASK_TIMEOUT_S = 3.0
LIMIT = 100
"""Reports looked into in one round."""


class Doubts:
    """See the module. One thread."""

    def __init__(self, cache: Cache, client: Client, clock: Clock) -> None:
        self._cache = cache
        self._client = client
        self._clock = clock
        self._refuted: set[tuple[str, str]] = set()

    def resolve(self) -> None:
        """Look into what is doubtful now."""
        with self._cache.lock:
            doubtful = [pair for pair in self._cache.doubts if pair not in self._refuted][:LIMIT]
            self._cache.doubts -= {*doubtful, *self._refuted}
        for place, (name, uid) in enumerate(doubtful):
            try:
                is_true = self._is_true(name, uid)
            except ApiError as error:
                _LOG.info("cannot read a claim that a node reports", v=2, node=name, error=error)
                self._refuted.update(doubtful[place:])  # until ``look_again``: the API is not well
                return
            if is_true:
                self._believe(name, uid)
            else:
                self._refuted.add((name, uid))
                _LOG.info("a node reports a domain without a claim", v=1, node=name, domain=uid)

    def look_again(self) -> None:
        """What was refuted may be true by now: a claim may have been allocated after the report."""
        with self._cache.lock:
            self._cache.doubts |= self._refuted
        self._refuted.clear()

    def _believe(self, name: str, uid: str) -> None:
        with self._cache.lock:
            self._cache.verified.add((name, uid))
            self._cache.mark(Key(What.DOMAIN, uid), self._cache.home_key(name))

    def _is_true(self, name: str, uid: str) -> bool:
        with self._cache.lock:
            domain = self._cache.domains.get(uid)
            report = readiness.report_of(self._cache.fabrics.get(name), uid)
        if domain is None or report is None:
            return False
        of_domain = (claim for claim in report.claims if claim.namespace == domain.namespace)
        return any(self._confirms(claim, name, uid) for claim in of_domain)

    def _confirms(self, claim: FabricClaim, name: str, uid: str) -> bool:
        deadline = Deadline(ASK_TIMEOUT_S, self._clock)
        try:
            obj = self._client.get(CLAIMS, claim.name, namespace=claim.namespace, deadline=deadline)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        view = wire.claim(obj)
        return view.uid == claim.uid and view.node == name and wire.claimed_domain(obj) == uid
