"""A node that can prepare no claim: its published devices, and the events on its Node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nvdra_core.errors import ApiError
from nvdra_node.kubeletplugin.driver import DeviceHealth, Health, Pool
from nvdra_node.kubeletplugin.events import EventSource
from nvdra_node.kubeletplugin.node_events import REPEAT_S, RETRY_S, NodeEvents
from nvdra_node.kubeletplugin.readiness import GuardedPool, Readiness, write_fault
from tests.fakes.clock import FakeClock
from tests.fakes.host.files import FakeFiles

SOURCE = EventSource("nvdra-gpu.nvidia.com", "n1")
UNHEALTHY = {"key": "gpu.nvidia.com/gpu-lost", "effect": "NoSchedule"}
BLOCKED = {"key": "gpu.nvidia.com/prepare-blocked", "effect": "NoSchedule"}
HEALTH = (DeviceHealth(device="gpu-0", health=Health.HEALTHY),)
POOL = Pool(devices=({"name": "gpu-0"}, {"name": "gpu-1", "taints": [UNHEALTHY]}), health=HEALTH)


class Driver:
    name = "gpu.nvidia.com"

    def pool(self) -> Pool:
        return POOL


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


def test_devices_are_withdrawn_while_blocked(readiness: Readiness) -> None:
    source = GuardedPool(Driver(), readiness, taints=False)
    assert source.pool() == POOL
    readiness.report("driver files", "no hook")
    assert source.pool() == Pool(health=HEALTH)
    readiness.report("driver files", "")
    assert source.pool() == POOL


def test_devices_are_tainted_while_blocked_with_taints(readiness: Readiness) -> None:
    source = GuardedPool(Driver(), readiness, taints=True)
    readiness.report("driver files", "no hook")
    assert [device["taints"] for device in source.pool().devices] == [
        [BLOCKED],
        [UNHEALTHY, BLOCKED],
    ]
    assert "taints" not in POOL.devices[0]


def test_each_change_of_causes_is_reported(readiness: Readiness) -> None:
    changes: list[tuple[str, ...]] = []
    readiness.subscribe(lambda: changes.append(readiness.causes))
    for subject, cause in [
        ("directories", ""),
        ("driver files", "no hook"),
        ("driver files", "no hook"),
        ("directories", "disk full"),
        ("driver files", ""),
        ("directories", ""),
    ]:
        readiness.report(subject, cause)
    assert changes == [("no hook",), ("disk full", "no hook"), ("disk full",), ()]


@pytest.mark.parametrize("kind", ["full", "read_only"])
def test_unwritable_directory_is_named(kind: str) -> None:
    files = FakeFiles()
    probes = (Path("/var/lib/nvdra/d/probe"), Path("/run/cdi/probe-d"))
    assert write_fault(files, probes) == "" and files.paths() == ()
    getattr(files, kind).add(Path("/run/cdi"))
    assert "probe-d" in write_fault(files, probes)
    assert files.paths() == ()


class Api:
    """Stores events, or refuses them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.status = 0

    def create(self, resource: Any, body: dict[str, Any], *, deadline: Any = None) -> Any:
        if self.status:
            raise ApiError("no", status=self.status)
        self.events.append(body)
        return body


class World:
    def __init__(self) -> None:
        self.clock, self.api, self.readiness = FakeClock(), Api(), Readiness()
        self.node = NodeEvents(self.readiness, self.api, SOURCE, self.clock)

    def run(self, seconds: float) -> list[str]:
        """The reasons written meanwhile."""
        before = len(self.api.events)
        end_s = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end_s:
            self.node.reconcile()
            self.clock.advance(5.0)
        return [event["reason"] for event in self.api.events[before:]]


def test_node_event_names_cause_and_recovery_once() -> None:
    world = World()
    assert world.run(60) == []
    world.readiness.report("driver files", "no hook")
    assert world.run(600) == ["PrepareBlocked"]
    (event,) = world.api.events
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Node",
        "name": "n1",
        "uid": "n1",
    }
    assert event["type"] == "Warning" and "no hook" in event["message"]
    world.readiness.report("driver files", "")
    assert world.run(REPEAT_S + 600) == ["PrepareRestored"]


def test_node_event_is_repeated_while_cause_lasts() -> None:
    world = World()
    world.readiness.report("driver files", "no hook")
    assert world.run(2 * REPEAT_S + 60) == ["PrepareBlocked"] * 3


@pytest.mark.parametrize("status", [0, 403, 429, 500])
def test_refused_node_event_is_written_later(status: int) -> None:
    world = World()
    world.api.status = status
    world.readiness.report("driver files", "no hook")
    if status:
        assert world.run(RETRY_S) == []
    world.api.status = 0
    assert world.run(RETRY_S + 10) == ["PrepareBlocked"]
