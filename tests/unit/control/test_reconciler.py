"""Due decisions: what a change makes due, what it does not, and that one odd object stops nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from nvdra_cluster.control.reconciler import Now, Reconciler
from nvdra_cluster.control.state.cache import Cache, Key, Kind
from nvdra_cluster.control.state.index import Multimap
from nvdra_cluster.decide.model import CliqueView, FabricView, NodeView
from nvdra_cluster.decide.node.nodespecs import CertificateRequest
from nvdra_cluster.decide.writes import Delete
from nvdra_core.api import CliqueDaemon, FabricCertificate, ImexStatus
from tests.unit.decide.views import (
    CLIQUE,
    OTHER_CLIQUE,
    SETTINGS,
    a_claim,
    a_claim_of,
    a_domain,
    a_fabric_node,
    a_ready_node,
    a_template,
)

NOW = Now(1000.0, "2026-11-21T16:00:00Z")


def a_cache(*nodes: FabricView, **views: Any) -> Cache:
    cache = Cache()
    for view in nodes:
        cache.put_node(NodeView(view.name, f"uid-{view.name}"))
        cache.put_fabric(view)
    for domain in views.get("domains", ()):
        cache.put_domain(domain)
    for claim in views.get("claims", ()):
        cache.put_claim(claim)
    due(cache)
    return cache


def due(cache: Cache) -> set[tuple[str, str]]:
    keys = cache.queue.get(1000)
    cache.queue.done(*keys)
    return {(key.kind.value, key.name) for key in keys}


def beat(view: FabricView, text: str) -> FabricView:
    from dataclasses import replace

    from msgspec.structs import replace as with_fields

    return replace(
        view, version=view.version + 1, status=with_fields(view.status, heartbeat_time=text)
    )


class TestDue:
    def test_heartbeat_queues_nothing(self):
        view = a_ready_node()
        cache = a_cache(view, domains=[a_domain()])
        cache.put_fabric(beat(view, "later"))
        assert due(cache) == set()
        assert cache.fabrics["tray-a"].status.heartbeat_time == "later"

    def test_report_queues_its_domain_and_clique(self):
        view = a_fabric_node(slot=0)
        cache = a_cache(view, domains=[a_domain()])
        ready = a_ready_node()
        cache.put_fabric(beat(ready, "later"))
        assert due(cache) == {("domain", "u1"), ("clique", CLIQUE)}

    def test_key_queued_twice_is_returned_once(self):
        cache = a_cache(a_fabric_node(slot=0), domains=[a_domain()])
        for number in range(3):
            cache.put_claim(a_claim(f"c{number}"))
        assert len(cache.queue.get(1000)) == len(cache.queue.get(1000)) + 2

    def test_claim_queues_its_domain_and_clique(self):
        cache = a_cache(a_fabric_node(slot=0), domains=[a_domain()])
        cache.put_claim(a_claim())
        assert due(cache) == {("domain", "u1"), ("clique", CLIQUE)}

    def test_move_queues_both_cliques(self):
        cache = a_cache(a_fabric_node(slot=0))
        cache.put_fabric(beat(a_fabric_node(slot=0, status={"clique_id": OTHER_CLIQUE}), ""))
        assert {("clique", CLIQUE), ("clique", OTHER_CLIQUE)} <= due(cache)

    def test_older_state_does_not_replace_newer_one(self):
        cache = a_cache(a_fabric_node(slot=0))
        newer = beat(a_ready_node(), "t")
        cache.put_fabric(newer)
        cache.put_fabric(a_fabric_node(slot=3))
        assert cache.fabrics["tray-a"].spec.slot == 0

    def test_late_response_does_not_restore_deleted_object(self):
        cache = a_cache()
        template = a_template()
        cache.tombstone(template.uid)
        cache.put_template(template)
        assert cache.templates == {}

    def test_claim_reentering_selection_counts_again(self):
        """Its label was taken off and put back: the watch calls that DELETED and ADDED."""
        cache = a_cache(domains=[a_domain()], claims=[a_claim(version=5)])
        cache.tombstone("uid-c", 6)
        cache.drop_claim("team/c", "uid-c")
        assert cache.claims == {}
        cache.put_claim(a_claim(version=5))
        assert cache.claims == {}, "what was known before is of no use"
        cache.put_claim(a_claim(version=7))
        assert cache.claims_of.get("u1") == {"team/c"}

    def test_older_claim_does_not_replace_newer_one(self):
        """The watch and the check before a deletion read separately."""
        cache = a_cache(domains=[a_domain()], claims=[a_claim(version=8)])
        cache.put_claim(a_claim(version=7, users=()))
        assert cache.claims["team/c"].users
        cache.put_claim(a_claim(version=9, users=()))
        assert not cache.claims["team/c"].users

    def test_irrelevant_claim_change_enqueues_nothing(self):
        cache = a_cache(domains=[a_domain()], claims=[a_claim(version=8)])
        cache.put_claim(a_claim(version=9))
        assert due(cache) == set()
        assert cache.claims["team/c"].version == 9

    def test_late_deletion_of_namesake_keeps_new_object(self):
        cache = a_cache(a_fabric_node(slot=0), domains=[a_domain()])
        cache.put_template(a_template(uid="new", version=9))
        cache.drop_template("team/train-channel", "old")
        cache.drop_fabric("tray-a", "old")
        cache.drop_domain("team/train", "old")
        assert [view.uid for view in cache.templates.values()] == ["new"]
        assert (set(cache.fabrics), set(cache.domains)) == ({"tray-a"}, {"u1"})

    def test_all_nodes_of_clique_share_one_list_in_memory(self):
        slots = tuple(a_fabric_node(slot=0).spec.slots)
        assert slots == ()
        from nvdra_core.api import FabricSlot

        a, b = (
            a_fabric_node(n, slot=i, spec={"slots": (FabricSlot(index=0, node_name="a"),)})
            for i, n in enumerate("ab")
        )
        cache = a_cache(a, b)
        assert cache.fabrics["a"].spec.slots is cache.fabrics["b"].spec.slots


def test_failed_decision_does_not_stop_others():
    class FailingIssuer:
        def issue(self, requests: Sequence[CertificateRequest]) -> dict[str, FabricCertificate]:
            if requests:
                raise RuntimeError("a bug of ours")
            return {}

    asking = {"imex": ImexStatus(certificate_request="csr")}
    odd = a_fabric_node("odd", clique="u.1", status=asking)
    cache = a_cache(odd, a_fabric_node("good", clique="u.2"))
    registry = CollectorRegistry()
    reconciler = Reconciler(cache, SETTINGS, registry, FailingIssuer())
    keys = [Key(Kind.CLIQUE, "u.1"), Key(Kind.CLIQUE, "u.2")]
    assert [group.key for group in reconciler.decide(keys, NOW)] == keys[1:]
    assert b'decision_failures_total{what="clique"} 1' in generate_latest(registry)


def test_deleted_fabric_node_gets_its_old_slot():
    """Its machine may be silent for hours, and run on: the slot must not depend on its report."""
    cache = Cache(lambda: NOW.monotonic_s)
    cache.put_node(NodeView("tray-a", "uid-tray-a"))
    cache.put_fabric(a_fabric_node(slot=3))
    cache.put_slice("slice-a", "tray-a")
    cache.drop_fabric("tray-a")
    reconciler = Reconciler(cache, SETTINGS, CollectorRegistry())
    (group,) = reconciler.decide([Key(Kind.NODE, "tray-a")], NOW)
    body = group.writes[0].body  # type: ignore[union-attr]
    assert body["spec"] == {"cliqueID": CLIQUE, "slot": 3}


def test_claim_of_other_domain_keeps_no_clique_entry():
    view = a_ready_node(domain="u2", claims=(a_claim_of(),))
    cache = a_cache(view, domains=[a_domain(), a_domain("u2", name="other")], claims=[a_claim(domain_uid="u2")])  # fmt: skip
    daemon = CliqueDaemon(node_name="tray-a", ip_address="10.0.0.6", clique_id=CLIQUE)
    for uid in ("u1", "u2"):
        cache.put_clique(CliqueView(f"{uid}.{CLIQUE}", f"q-{uid}", uid, CLIQUE, (daemon,)))
    reconciler = Reconciler(cache, SETTINGS, CollectorRegistry())
    groups = reconciler.decide([Key(Kind.DOMAIN, "u1"), Key(Kind.DOMAIN, "u2")], NOW)
    ended = [w.key[2] for g in groups for w in g.writes if isinstance(w, Delete)]
    assert ended == [f"u1.{CLIQUE}"]


class NotedMap(Multimap):
    """Counts how often it is asked."""

    asked = 0

    def get(self, key: str) -> set[str]:
        self.asked += 1
        return super().get(key)


def test_clique_specs_do_not_scan_all_nodes_of_domain():
    """Or a domain of 10,000 nodes takes a minute at each resync: 10,000 times 10,000."""
    cache = Cache()
    cache.claims_of = noted = NotedMap()
    cache.put_domain(a_domain())
    for name in ("a", "b", "c"):
        cache.put_node(NodeView(name, f"uid-{name}"))
        cache.put_fabric(a_fabric_node(name))
        cache.put_claim(a_claim(f"c-{name}", node=name))
    reconciler = Reconciler(cache, SETTINGS, CollectorRegistry())
    reconciler.decide([Key(Kind.DOMAIN, "u1")], NOW)
    noted.asked = 0
    (group,) = reconciler.decide([Key(Kind.CLIQUE, CLIQUE)], NOW)
    assert [len(w.patch["spec"]["domains"]) for w in group.writes] == [1, 1, 1]  # type: ignore[union-attr]
    assert noted.asked == 0


def test_claim_of_another_namespace_makes_no_member():
    cache = a_cache(a_fabric_node(slot=0), domains=[a_domain()], claims=[a_claim(namespace="evil")])
    reconciler = Reconciler(cache, SETTINGS, CollectorRegistry())
    reconciler.decide([Key(Kind.DOMAIN, "u1")], NOW)
    (group,) = reconciler.decide([Key(Kind.CLIQUE, CLIQUE)], NOW)
    assert "domains" not in group.writes[0].patch["spec"]  # type: ignore[union-attr]


def test_template_of_other_namespace_is_ignored():
    cache = a_cache(domains=[a_domain()])
    cache.put_template(a_template(namespace="evil"))
    reconciler = Reconciler(cache, SETTINGS, CollectorRegistry())
    (group,) = reconciler.decide([Key(Kind.DOMAIN, "u1")], NOW)
    touched = [
        (type(w).__name__, w.key[1]) for w in group.writes if w.key[0] == "resourceclaimtemplates"
    ]
    assert touched == [("Create", "team")]
