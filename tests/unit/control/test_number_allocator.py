"""Ports and channels: a number is not reused while it may be in use."""

from __future__ import annotations

from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from nvdra_cluster.control.reconciler import Now, Reconciler
from nvdra_cluster.control.state.cache import Cache, Key, Kind
from nvdra_cluster.decide.model import FabricView, NodeView
from nvdra_cluster.decide.number_allocator import NUMBER_REUSE_DELAY_S, NumberAllocator
from nvdra_core.api import ComputeDomainAssignment, ComputeDomainStatus, FabricDomain, Isolation
from tests.unit.decide.views import (
    BY_CHANNEL,
    CLIQUE,
    a_claim_of,
    a_domain,
    a_fabric_node,
    a_report,
)

NOW_S = 1000.0
FIRST = ComputeDomainAssignment(isolation=Isolation.CHANNEL, port=24000, channel=1)
OLD = "old-domain"
ASSIGNED = FabricDomain(
    uid=OLD, namespace="team", name="old", isolation=Isolation.CHANNEL, port=24000, channel=1
)


def a_holder(*, is_assigned: bool = True) -> FabricView:
    """A node with pods of a domain; whether its spec names it."""
    report = a_report(OLD, claims=(a_claim_of(),))
    spec = {"domains": (ASSIGNED,)} if is_assigned else {}
    return a_fabric_node(slot=0, spec=spec, status={"domains": (report,)})


def a_controller(view: FabricView) -> tuple[Cache, Reconciler]:
    cache = Cache(lambda: NOW_S)
    cache.put_node(NodeView(view.name, f"uid-{view.name}"))
    cache.put_fabric(view)
    return cache, Reconciler(cache, BY_CHANNEL, CollectorRegistry())


def channel_of(cache: Cache, reconciler: Reconciler, uid: str, at_s: float) -> int:
    """The channel that a new domain is given."""
    cache.put_domain(a_domain(uid, name=uid))
    keys = [*cache.queue.get(1000), Key(Kind.DOMAIN, uid)]
    cache.queue.done(*keys)
    groups = reconciler.decide(keys, Now(at_s, "2026-11-21T16:00:00Z"))
    for group in groups:
        for write in group.writes:
            if write.key[0] == "computedomains" and "status" in getattr(write, "patch", {}):
                return int(write.patch["status"]["assignment"]["channel"])  # type: ignore[union-attr]
    raise AssertionError("it was given none")


def force_away(cache: Cache) -> None:
    """The domain is deleted by force while the node holds it."""
    status = ComputeDomainStatus(assignment=FIRST)
    cache.put_domain(a_domain(OLD, name="old", status=status))


class TestDomainsForcedAway:
    """Pods run on with the channel of a domain that its owner forced away: it is not assigned again."""

    def test_channel_stays_reserved_while_node_holds_it(self):
        cache, reconciler = a_controller(a_holder())
        force_away(cache)
        reconciler.adopt(NOW_S)
        cache.drop_domain("team/old")
        assert channel_of(cache, reconciler, "new", NOW_S) == 2
        assert channel_of(cache, reconciler, "later", NOW_S + 10 * NUMBER_REUSE_DELAY_S) == 3

    def test_channel_stays_reserved_after_restart(self):
        cache, reconciler = a_controller(a_holder())
        reconciler.adopt(NOW_S)
        cache.enqueue_all()
        assert channel_of(cache, reconciler, "new", NOW_S) == 2
        assert channel_of(cache, reconciler, "later", NOW_S + 10 * NUMBER_REUSE_DELAY_S) == 3

    def test_node_keeps_domain_as_closed_for_new_claims(self):
        _, reconciler = a_controller(a_holder())
        reconciler.adopt(NOW_S)
        (group,) = reconciler.decide([Key(Kind.CLIQUE, CLIQUE)], Now(NOW_S, ""))
        (domain,) = group.writes[0].patch["spec"]["domains"]  # type: ignore[union-attr]
        assert (domain["uid"], domain["channel"], domain["deleting"]) == (OLD, 1, True)

    def test_channel_is_freed_after_last_release(self):
        view = a_holder()
        cache, reconciler = a_controller(view)
        reconciler.adopt(NOW_S)
        free = a_fabric_node(slot=0)
        cache.put_fabric(FabricView(free.name, free.uid, 2, free.spec, free.status, free.created))
        assert channel_of(cache, reconciler, "soon", NOW_S) == 2
        assert channel_of(cache, reconciler, "later", NOW_S + NUMBER_REUSE_DELAY_S + 1) == 1


def test_new_leader_keeps_reuse_delays_it_observed():
    cache, reconciler = a_controller(a_fabric_node(slot=0))
    force_away(cache)
    cache.drop_domain("team/old")
    reconciler.adopt(NOW_S)
    assert channel_of(cache, reconciler, "soon", NOW_S) == 2
    assert channel_of(cache, reconciler, "later", NOW_S + NUMBER_REUSE_DELAY_S + 1) == 1


def test_numbers_in_fabric_nodes_win_over_domain_status():
    cache, reconciler = a_controller(a_holder())
    theirs = ComputeDomainStatus(assignment=replace(FIRST, channel=7))
    cache.put_domain(a_domain(OLD, name="old", status=theirs))
    reconciler.adopt(NOW_S)
    assert channel_of(cache, reconciler, OLD, NOW_S) == 1


def test_reserved_number_is_not_adopted():
    numbers = NumberAllocator(BY_CHANNEL)
    numbers.ensure("a", NOW_S)
    numbers.release("a", NOW_S)
    numbers.adopt("b", [FIRST], NOW_S)
    assert numbers.of("b") is None
