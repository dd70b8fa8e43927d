"""The publisher against an API server: first slice, changes, wipes, failures."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from nvdra_core.kube.resources import NODES, ObjectList
from nvdra_core.runtime.clock import Deadline
from nvdra_node.kubeletplugin.slices.client import SliceClient, withdraw
from tests.beds.services.publishing import (
    CLOCK,
    DRIVER,
    NODE,
    PacedClock,
    World,
    a_world,
    add_node,
    device,
)
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.server import FakeSettings
from tests.lib.waits import until

WITHIN_S = 60.0
"""The watch takes 1 to 10 s by the publisher's clock, an audit 240 s."""


@pytest.fixture
def world() -> Iterator[World]:
    """A publisher of gpu-0 that is not started."""
    with a_world(device(0)) as made:
        yield made


@pytest.fixture
def running(world: World) -> World:
    """A publisher that has published gpu-0 and watches."""
    world.start()
    until(lambda: world.publisher.published().is_published)
    until(lambda: world.count("watch"))
    return world


def requests(world: World, verbs: tuple[str, ...]) -> list[str]:
    """Verbs of the requests, in order."""
    return [line.verb for line in world.server.api.log.lines() if line.verb in verbs]


def prefetch(world: World) -> None:
    """Prefetch, and wait until the watch has the stored slices."""
    world.publisher.prefetch()
    until(lambda: world.publisher.has_listing)


def owner_uid(world: World) -> str:
    """UID of the Node that owns the first slice."""
    until(world.slices)
    return str(world.slices()[0]["metadata"]["ownerReferences"][0]["uid"])


def recreate_node(world: World) -> str:
    world.client.delete(NODES, NODE)
    return add_node(world.server)


def test_first_slice_takes_get_list_and_create(world: World) -> None:
    world.set_pool(device(0), device(1))
    world.start()
    until(lambda: world.publisher.published().is_published)
    lines = [(line.verb, line.resource) for line in world.server.api.log.lines()]
    assert lines[:3] == [
        ("get", "nodes"),
        ("list", "resourceslices"),
        ("create", "resourceslices"),
    ]
    (obj,) = world.slices()
    assert obj["metadata"]["name"].startswith("00000-gpu.nvidia.com-node-1-")
    assert obj["spec"]["nodeName"] == NODE and world.devices() == ["gpu-0", "gpu-1"]
    status = world.publisher.published()
    assert (status.generation, status.slices, status.devices) == (1, 1, 2)


def test_prefetch_publishes_with_three_requests(world: World) -> None:
    prefetch(world)
    world.start()
    until(lambda: world.publisher.published().is_published)
    # The first two are concurrent.
    assert sorted(requests(world, ("get", "list", "watch", "create"))) == ["create", "get", "watch"]
    world.wipe()  # the same watch sees it
    until(lambda: world.devices() == ["gpu-0"])


def test_prefetched_slices_are_kept_or_updated(world: World) -> None:
    world.publisher.attempt()
    (before,) = world.slices()
    world.server.api.log.clear()
    for wanted in ([device(0)], [device(1)]):
        after = World(world.server, *wanted)
        prefetch(after)
        after.publisher.attempt()
        after.stop()
    assert requests(world, ("list", "create", "update")) == ["update"]
    (obj,) = world.slices()
    assert obj["metadata"]["uid"] == before["metadata"]["uid"]
    assert world.devices() == ["gpu-1"] and obj["spec"]["pool"]["generation"] == 1


def test_change_after_prefetch_causes_list(world: World) -> None:
    prefetch(world)
    other = World(world.server, device(7))
    other.publisher.attempt()
    other.stop()
    until(lambda: not world.publisher.has_listing)
    world.start()
    until(lambda: world.devices() == ["gpu-0"])
    assert len(world.slices()) == 1


def test_conflict_after_prefetch_is_retried(world: World) -> None:
    world.publisher.attempt()
    world.publisher.stop()
    after = World(world.server, device(1))
    prefetch(after)
    world.server.api.faults.add(Fault(verb="update", code=409))
    after.start()
    until(lambda: world.devices() == ["gpu-1"])
    after.stop()
    assert len(world.slices()) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(verb="watch", code=422),
        Fault(verb="watch", code=400),
        Fault(verb="watch", action="hang"),
        Fault(verb="watch", code=403, count=2),
        Fault(verb="watch", action="cut", count=3),
    ],
)
def test_server_without_initial_events_is_listed(world: World, fault: Fault) -> None:
    world.server.api.faults.add(fault)
    world.publisher.prefetch()
    world.start()
    until(lambda: world.publisher.published().is_published)
    until(lambda: world.count("watch") > fault.count)
    world.wipe()
    until(lambda: world.devices() == ["gpu-0"])


@pytest.mark.parametrize("version", ["v1", "v1beta2", "v1beta1"])
@pytest.mark.parametrize("is_prefetched", [False, True])
def test_slices_are_published_in_every_api_version(version: str, is_prefetched: bool) -> None:
    settings = FakeSettings(minor=33 if version != "v1" else 36, versions=(version,))
    with a_world(device(0), settings=settings) as world:
        if is_prefetched:
            world.publisher.prefetch()
        world.start()
        until(lambda: world.devices() == ["gpu-0"])
        world.wipe()
        until(lambda: world.devices() == ["gpu-0"])


def test_failed_prefetch_is_retried_by_first_attempt() -> None:
    with a_world(device(0), node=False) as world:
        world.publisher.prefetch()
        assert world.publisher.published().error == ""
        uid = add_node(world.server)
        world.start()
        assert owner_uid(world) == uid


def test_node_recreated_after_prefetch_owns_slices(world: World) -> None:
    world.publisher.prefetch()
    uid = recreate_node(world)
    world.start()
    until(world.slices)
    until(lambda: world.count("watch"))
    world.wipe()  # garbage collection: their owner was deleted
    assert owner_uid(world) == uid


def test_recreated_node_owns_slices(running: World) -> None:
    uid = recreate_node(running)
    running.wipe()  # garbage collection
    assert owner_uid(running) == uid


def test_missing_node_is_waited_for() -> None:
    with a_world(device(0), node=False) as world:
        world.start()
        until(lambda: "not found" in world.publisher.published().error)
        add_node(world.server)
        until(world.slices)
        until(lambda: world.publisher.published().error == "")


def test_empty_pool_is_published_as_empty_slice() -> None:
    with a_world() as world:
        world.start()
        until(world.slices)
        assert "devices" not in world.slices()[0]["spec"]


def test_restart_writes_nothing(running: World) -> None:
    running.publisher.stop()
    before = running.slices()
    running.server.api.log.clear()
    after = World(running.server, device(0))
    after.start()
    until(lambda: after.publisher.published().is_published)
    after.stop()
    assert running.slices() == before
    assert running.count("create") == running.count("update") == 0


def test_change_takes_one_list_and_one_update(running: World) -> None:
    running.server.api.log.clear()
    running.publisher.changed()
    running.set_pool(device(0), device(1))
    until(lambda: running.devices() == ["gpu-0", "gpu-1"])
    until(lambda: running.publisher.published().devices == 2)
    running.publisher.changed()
    time.sleep(0.4)  # an unexpected request would follow within this time
    assert requests(running, ("list", "update", "create")) == ["list", "update"]


def test_wiped_slices_are_restored_within_seconds() -> None:
    clock = PacedClock(8.0)
    with a_world(*map(device, range(200)), clock=clock) as world:
        world.start()
        until(lambda: len(world.devices()) == 200)
        until(lambda: world.count("watch"))
        for _ in range(2):
            world.wipe()
            wiped_at_s = clock.monotonic()
            assert world.slices() == []
            until(lambda: len(world.devices()) == 200)
            assert clock.monotonic() - wiped_at_s < WITHIN_S, "and not with the next audit"


def test_registration_restores_wiped_slices() -> None:
    never = PacedClock(0.001)  # pauses never end
    with a_world(device(0), clock=never) as world:
        world.start()
        until(lambda: world.publisher.published().is_published)
        world.wipe()
        world.publisher.registered()
        until(lambda: world.devices() == ["gpu-0"])


def test_foreign_update_is_corrected(running: World) -> None:
    (obj,) = running.api.list_slices().items
    obj["spec"]["devices"] = [device(7)]
    running.api.update_slice(obj)
    until(lambda: running.devices() == ["gpu-0"])


@pytest.mark.parametrize(
    "fault",
    [
        Fault(verb="create", code=409, count=2),
        Fault(verb="create", code=500, count=2),
        Fault(verb="list", code=429, count=2, retry_after_s=1),
        Fault(verb="create", code=403, count=2),
        Fault(verb="create", action="no_answer", is_executed=True),
        Fault(verb="create", action="cut", is_executed=True),
        Fault(verb="list", action="reset", count=3),
        Fault(verb="watch", code=500, count=2),
        Fault(verb="get", resource="nodes", action="reset", count=3),
    ],
)
def test_server_failure_delays_without_duplicates(fault: Fault) -> None:
    with a_world(*map(device, range(130))) as world:
        world.server.api.faults.add(fault)
        world.start()
        until(lambda: len(world.devices()) == 130)
        until(lambda: world.publisher.published().is_published)
        assert len(world.slices()) == 2


def test_conflict_is_retried(running: World) -> None:
    running.server.api.faults.add(Fault(verb="update", code=409))
    running.set_pool(device(1))
    until(lambda: running.devices() == ["gpu-1"])


def test_unavailable_server_is_retried_with_backoff() -> None:
    clock = PacedClock(8.0)
    with a_world(device(0), clock=clock) as world:
        world.server.api.faults.add(Fault(code=403, count=0))
        began_s = clock.monotonic()
        world.start()
        until(lambda: len(world.outcomes.seen) >= 6)
        assert clock.monotonic() - began_s > (0.25 + 0.5 + 1.0 + 2.0 + 4.0) / 2
        assert set(world.outcomes.seen) == {"api"}
        assert not world.publisher.published().is_published
        world.server.api.faults.clear()
        until(lambda: world.devices() == ["gpu-0"])


def test_wipe_during_lost_connection_is_detected(running: World) -> None:
    running.server.end_connections()
    running.wipe()
    until(lambda: running.devices() == ["gpu-0"])


def test_slices_of_another_driver_are_kept(world: World) -> None:
    other = {
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
        "metadata": {"name": "other"},
        "spec": {"driver": "other.example.com", "nodeName": NODE,
                 "pool": {"name": NODE, "generation": 1, "resourceSliceCount": 1}},
    }  # fmt: skip
    world.server.add(other)
    world.publisher.attempt()
    assert len(world.slices()) == 2
    assert withdraw(SliceClient(world.api, DRIVER, NODE), Deadline(10, CLOCK)) == 1
    assert [obj["metadata"]["name"] for obj in world.slices()] == ["other"]


def test_withdraw_ignores_slices_already_deleted() -> None:
    with a_world(*(device(number) for number in range(200))) as world:

        class Wiped(SliceClient):
            """A kubelet deletes the slices right after they were listed."""

            def list(self, deadline: Deadline) -> ObjectList:
                found = super().list(deadline)
                world.wipe()
                return found

        world.publisher.attempt()
        assert len(world.slices()) == 2
        assert withdraw(Wiped(world.api, DRIVER, NODE), Deadline(10, CLOCK)) == 2
        assert world.slices() == []


def test_invalid_pool_is_reported_and_next_published(running: World) -> None:
    running.set_pool(device(1), device(1))
    until(lambda: "gpu-1 is in the pool twice" in running.publisher.published().error)
    assert running.devices() == ["gpu-0"]
    running.set_pool(device(2))
    until(lambda: running.devices() == ["gpu-2"])
