"""API servers that refuse devices or drop fields: unsafe devices are never published, the others are."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import pytest

from nvdra_core.kube.reflector import Reflector, ReflectorSettings
from nvdra_core.kube.resources import SLICES, JsonObject
from nvdra_node.kube.client import Client
from nvdra_node.kube.listwatch import ClientListWatch
from tests.beds.services.publishing import (
    CLOCK,
    NO_COUNTERS,
    NO_SHARING,
    NO_TAINTS,
    World,
    a_world,
    device,
)
from tests.fakes.apiserver.admission import refusing_device
from tests.fakes.apiserver.server import FakeSettings
from tests.fakes.apiserver.writes import now
from tests.lib.waits import until

TAINT = {"key": "gpu.nvidia.com/gpu-lost", "effect": "NoSchedule"}
BAD_VERSION = {"driverVersion": {"version": "580.65.06"}}
REFUSES_VERSION = refusing_device("580.65.06", "not a semantic version")


def stamping_taints(obj: JsonObject) -> JsonObject:
    """The real API server adds ``timeAdded`` to new taints."""
    for one in obj["spec"].get("devices", ()):
        one.update({"taints": [{"timeAdded": now(), **taint} for taint in one.get("taints", ())]})
    return obj


class SliceObserver:
    """Records the devices of every state of the slices; complete once it is stopped."""

    def __init__(self, world: World) -> None:
        self.ever: set[str] = set()
        self._world = world
        self._client = Client(world.server.config())
        source = ClientListWatch(self._client, SLICES)
        settings = ReflectorSettings(resource_version="1")
        self._reflector = Reflector(source, self, CLOCK, settings)
        self._thread = threading.Thread(target=self._reflector.run, daemon=True)
        self._thread.start()

    def replace(self, objects: Iterable[JsonObject]) -> None:
        raise AssertionError("a state may have been missed")

    def put(self, obj: JsonObject) -> None:
        self.ever |= {d["name"] for d in obj["spec"].get("devices", ())}

    delete = put

    def stop(self) -> None:
        versions = [obj["metadata"]["resourceVersion"] for obj in self._world.slices()]
        until(lambda: self._reflector.resource_version == max(versions, key=int))
        self._reflector.stop()
        self._thread.join()
        self._client.close()


def a_counter_set(number: int) -> dict[str, object]:
    return {"name": f"set-{number}", "counters": {"memory": {"value": "80Gi"}}}


def a_partition(number: int, of: int) -> dict[str, object]:
    counters = {"memory": {"value": "10Gi"}}
    return device(number, consumesCounters=[{"counterSet": f"set-{of}", "counters": counters}])


def test_taint_is_published_and_keeps_its_time() -> None:
    rules = (stamping_taints,)
    with a_world(device(0), device(1, taints=[TAINT]), rules=rules) as world:
        world.start()
        until(lambda: world.devices() == ["gpu-0", "gpu-1"])
        (taint,) = world.slices()[0]["spec"]["devices"][1]["taints"]
        world.set_pool(device(0, taints=[TAINT]), device(1, taints=[TAINT]))
        until(lambda: world.slices()[0]["spec"]["devices"][0].get("taints"))
        assert world.slices()[0]["spec"]["devices"][1]["taints"] == [taint]


def test_tainted_device_is_left_out_if_taints_are_dropped() -> None:
    with a_world(device(0), device(1, taints=[TAINT]), rules=(NO_TAINTS,)) as world:
        observer = SliceObserver(world)
        world.start()
        until(lambda: world.devices() == ["gpu-0"])
        until(lambda: world.publisher.published().is_published)
        status = world.publisher.published()
        assert status.left_out == {"gpu-1": "the API server lacks DRADeviceTaints"}
        world.set_pool(device(0), device(1))  # well again
        until(lambda: world.devices() == ["gpu-0", "gpu-1"])
        world.set_pool(device(0, taints=[TAINT]), device(1))
        until(lambda: world.devices() == ["gpu-1"])
        observer.stop()
        assert not any(d.get("taints") for o in world.slices() for d in o["spec"]["devices"])


def test_device_tainted_at_start_is_never_visible() -> None:
    with a_world(device(0), device(1, taints=[TAINT]), rules=(NO_TAINTS,)) as world:
        observer = SliceObserver(world)
        world.start()
        until(lambda: world.devices() == ["gpu-0"])
        time.sleep(0.3)
        observer.stop()
        assert observer.ever == {"gpu-0"}


def test_partitions_are_left_out_if_counters_are_dropped() -> None:
    with a_world(device(0), rules=(NO_COUNTERS,)) as world:
        observer = SliceObserver(world)
        world.start()
        until(lambda: world.devices() == ["gpu-0"])
        world.set_pool(device(0), a_partition(1, 0), counters=(a_counter_set(0),))
        until(lambda: world.publisher.published().left_out)
        until(lambda: world.publisher.published().is_published)
        assert world.devices() == ["gpu-0"]
        observer.stop()
        assert observer.ever == {"gpu-0"}


@pytest.mark.parametrize(("minor", "expected"), [(34, 12), (36, 2 + 1)])
def test_counter_set_layout_follows_server_version(minor: int, expected: int) -> None:
    partitions = [a_partition(n, n) for n in range(12)]
    with a_world(settings=FakeSettings(minor=minor)) as world:
        world.set_pool(*partitions, counters=tuple(a_counter_set(n) for n in range(12)))
        world.start()
        until(lambda: len(world.devices()) == 12)
        assert len(world.slices()) == expected


def test_refused_device_does_not_hide_others() -> None:
    devices = (device(0), device(1, attributes=BAD_VERSION), device(2))
    with a_world(*devices, rules=(REFUSES_VERSION,)) as world:
        world.start()
        until(lambda: world.devices() == ["gpu-0", "gpu-2"])
        until(lambda: "gpu-1" in world.publisher.published().left_out)
        assert "not a semantic version" in world.publisher.published().left_out["gpu-1"]
        world.set_pool(device(0), device(1), device(2))
        until(lambda: len(world.devices()) == 3)
        until(lambda: world.publisher.published().left_out == {})


def test_dropped_field_is_written_once_and_reported() -> None:
    shared = device(0, allowMultipleAllocations=True)
    with a_world(shared, rules=(NO_SHARING,)) as world:
        world.start()
        until(lambda: world.publisher.published().is_published)
        assert world.publisher.published().dropped == {"DRAConsumableCapacity"}
        before = world.slices()
        world.publisher.registered()
        until(lambda: len(world.outcomes.seen) >= 2)
        assert world.slices() == before and world.count("update") == 0
