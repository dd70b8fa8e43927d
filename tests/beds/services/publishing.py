"""A publisher on a fake API server, for the publisher tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nvdra_core.errors import NvdraError
from nvdra_core.runtime.clock import Clock, Deadline, SystemClock
from nvdra_node.kube.client import Client
from nvdra_node.kube.dra import DraApi
from nvdra_node.kubeletplugin.driver import Pool
from nvdra_node.kubeletplugin.slices.client import SliceClient, withdraw
from nvdra_node.kubeletplugin.slices.publisher import Publisher
from tests.fakes.apiserver.admission import Rule, dropping
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings
from tests.lib.objects import obj

DRIVER, NODE = "gpu.nvidia.com", "node-1"
CLOCK = SystemClock()
PATIENCE_S = 60.0
"""Sufficient on a busy machine."""


NO_TAINTS = dropping("devices.taints")
NO_SHARING = dropping("devices.allowMultipleAllocations")
NO_COUNTERS = dropping("sharedCounters", "devices.consumesCounters")
"""An API server whose gate DRADeviceTaints, DRAConsumableCapacity or DRAPartitionableDevices is off."""


class PacedClock(SystemClock):
    """The system clock, with pauses shortened or extended by a factor."""

    def __init__(self, speed: float) -> None:
        """``speed``: pauses take 1/speed of the requested time; ``monotonic`` advances by the requested time."""
        self._speed = speed
        self._ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead_s

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        is_set = event.wait(timeout_s / self._speed)
        if not is_set:
            self._ahead_s += timeout_s - timeout_s / self._speed
        return is_set


def device(number: int, **more: Any) -> dict[str, Any]:
    return {"name": f"gpu-{number}", "attributes": {"index": {"int": number}}, **more}


class Source:
    """PoolSource with a pool to set."""

    name = DRIVER

    def __init__(self, *devices: dict[str, Any]) -> None:
        self.now = Pool(devices=devices)

    def pool(self) -> Pool:
        return self.now


class Outcomes:
    """PublishMetrics that records outcomes."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @contextmanager
    def publish(self) -> Iterator[None]:
        try:
            yield
        except NvdraError as error:
            self.seen.append(error.reason)
            raise
        self.seen.append("success")


class World:
    """A server with a Node, and a publisher that is not started."""

    def __init__(
        self, server: FakeApiServer, *devices: dict[str, Any], clock: Clock | None = None
    ) -> None:
        self.server = server
        self.source = Source(*devices)
        self.outcomes = Outcomes()
        self.client = Client(server.config())
        self.api = DraApi(self.client)
        self.publisher = Publisher(
            self.source,
            NODE,
            SliceClient(self.api, DRIVER, NODE),
            self.outcomes,
            clock or PacedClock(8.0),
        )
        self._thread = threading.Thread(target=self.publisher.run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.publisher.stop()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_S)
            assert not self._thread.is_alive()
        self.client.close()

    def set_pool(self, *devices: dict[str, Any], counters: tuple[dict[str, Any], ...] = ()) -> None:
        """Change the pool and notify the publisher."""
        self.source.now = Pool(devices=devices, shared_counters=counters)
        self.publisher.changed()

    def slices(self) -> list[dict[str, Any]]:
        return self.server.objects("resourceslices")

    def devices(self) -> list[str]:
        """Names of all published devices, as the scheduler sees them; empty while the pool is incomplete."""
        specs = [obj["spec"] for obj in self.slices()]
        newest = max((spec["pool"]["generation"] for spec in specs), default=0)
        specs = [spec for spec in specs if spec["pool"]["generation"] == newest]
        if any(spec["pool"]["resourceSliceCount"] != len(specs) for spec in specs):
            return []
        return [d["name"] for spec in specs for d in spec.get("devices", ())]

    def count(self, verb: str, resource: str = "resourceslices") -> int:
        return self.server.api.log.count(verb, resource)

    def set_rules(self, *rules: Rule) -> None:
        """Replace what the API server does with each slice that it stores."""
        self.server.api.writer.rules["resourceslices"] = list(rules)

    def wipe(self) -> None:
        """Delete the driver's slices, as the kubelet does at its start."""
        withdraw(SliceClient(self.api, DRIVER, NODE), Deadline(10, CLOCK))


def add_node(server: FakeApiServer) -> str:
    """Create the Node object; returns its UID."""
    node = server.add(obj("Node", NODE))
    return str(node["metadata"]["uid"])


@contextmanager
def a_world(
    *devices: dict[str, Any],
    settings: FakeSettings | None = None,
    node: bool = True,
    clock: Clock | None = None,
    rules: tuple[Rule, ...] = (),
) -> Iterator[World]:
    """``rules``: what the API server does with each slice that it stores."""
    with FakeApiServer(settings) as server:
        if node:
            add_node(server)
        world = World(server, *devices, clock=clock)
        world.set_rules(*rules)
        try:
            yield world
        finally:
            world.stop()
