"""Which reports are verified when, by what the API answers."""

from __future__ import annotations

from typing import Any, cast

from nvdra_cluster.control.report_verifier import API_PAUSE_S, ReportVerifier
from nvdra_cluster.control.state.cache import Cache
from nvdra_core.errors import ApiError
from nvdra_node.kube.client import Client
from tests.fakes.clock import FakeClock
from tests.unit.decide.views import a_claim_of, a_domain, a_fabric_node, a_report


class Claims:
    """An API server that has no claims, and cannot read some."""

    def __init__(self, *unreadable: str) -> None:
        self.unreadable = set(unreadable)

    def get(self, resource: Any, name: str, **options: Any) -> dict[str, Any]:
        status = 500 if name in self.unreadable else 404
        raise ApiError(f"{name}: no answer", status=status, api_reason="")


def test_unreadable_claim_does_not_delay_other_reports():
    clock, cache = FakeClock(), Cache()
    cache.put_domain(a_domain())
    for name in ("a", "b"):
        report = a_report(claims=(a_claim_of(name),))
        cache.put_fabric(a_fabric_node(name, status={"domains": (report,)}))
        cache.report_states.request((name, "u1"), is_urgent=True)
    claims = Claims("a")
    verifier = ReportVerifier(cache, cast("Client", claims), clock)
    for _ in range(3):
        verifier.verify_pending()
        clock.advance(API_PAUSE_S + 1)
    assert ("b", "u1") in cache.report_states.refuted
    assert ("a", "u1") not in cache.report_states.refuted
    claims.unreadable.clear()
    clock.advance(60)
    verifier.verify_pending()
    assert ("a", "u1") in cache.report_states.refuted
