"""Every family that the controller reads from its cache at a scrape changes with its cause."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from nvdra_cluster.control.metrics import ControllerCollector
from nvdra_cluster.control.state.cache import Cache
from tests.unit.decide.views import a_domain, a_fabric_node

EXPIRY = "nvdra_controller_certificate_expiry_timestamp_seconds"


def test_every_family_of_cache_changes_with_its_cause():
    cache, registry = Cache(), CollectorRegistry()
    is_leading = False
    registry.register(ControllerCollector(cache, lambda: is_leading, lambda: 5e9))
    before = {family.name: family.samples for family in registry.collect()}
    assert before[EXPIRY] == []
    is_leading = True
    cache.put_domain(a_domain("u1", name="d1"))
    cache.put_fabric(a_fabric_node("a"))
    after = {family.name: family.samples for family in registry.collect()}
    assert {name for name in after if after[name] == before[name]} == set()
    assert registry.get_sample_value(EXPIRY, {"certificate": "ca"}) == 5e9
    state = {"status": "NotReady"}
    assert registry.get_sample_value("nvidia_dra_compute_domain_info", state) == 1
