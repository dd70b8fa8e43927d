"""A publisher on a fake API server: the world of the publisher tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nvdra_core.clock import Deadline, SystemClock
from nvdra_core.errors import NvdraError
from nvdra_core.kube.client import Client
from nvdra_core.kube.dra import DraApi
from nvdra_core.kube.fake.server import FakeApiServer, FakeSettings
from nvdra_node.kubeletplugin.driver import Pool
from nvdra_node.kubeletplugin.publisher import Publisher
from nvdra_node.kubeletplugin.sliceapi import KubeSlices

DRIVER, NODE = "gpu.nvidia.com", "node-1"
CLOCK = SystemClock()


def device(number: int, **more: Any) -> dict[str, Any]:
    return {"name": f"gpu-{number}", "attributes": {"index": {"int": number}}, **more}


def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    """Wait for a condition; fails when it does not come true."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        threading.Event().wait(0.01)


class Source:
    """PoolSource with a pool to set."""

    name = DRIVER

    def __init__(self, *devices: dict[str, Any]) -> None:
        self.now = Pool(devices=devices)

    def pool(self) -> Pool:
        return self.now


class Outcomes:
    """PublishMetrics that remembers."""

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
    """The server with a Node, and a publisher that has not started."""

    def __init__(self, server: FakeApiServer, *devices: dict[str, Any]) -> None:
        self.server = server
        self.source = Source(*devices)
        self.outcomes = Outcomes()
        self.client = Client(server.config())
        self.api = DraApi(self.client)
        self.publisher = Publisher(
            self.source, NODE, KubeSlices(self.api, DRIVER, NODE), self.outcomes, CLOCK
        )
        self._thread = threading.Thread(target=self.publisher.run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.publisher.stop()
        if self._thread.ident is not None:
            self._thread.join(5)
            assert not self._thread.is_alive()
        self.client.close()

    def offer(self, *devices: dict[str, Any], counters: tuple[dict[str, Any], ...] = ()) -> None:
        """Change the pool and say so."""
        self.source.now = Pool(devices=devices, shared_counters=counters)
        self.publisher.changed()

    def slices(self) -> list[dict[str, Any]]:
        return self.server.objects("resourceslices")

    def devices(self) -> list[str]:
        """Names of all devices on offer, as the scheduler sees them; empty while the pool is incomplete."""
        specs = [obj["spec"] for obj in self.slices()]
        newest = max((spec["pool"]["generation"] for spec in specs), default=0)
        specs = [spec for spec in specs if spec["pool"]["generation"] == newest]
        if any(spec["pool"]["resourceSliceCount"] != len(specs) for spec in specs):
            return []
        return [d["name"] for spec in specs for d in spec.get("devices", ())]

    def count(self, verb: str, resource: str = "resourceslices") -> int:
        return self.server.api.log.count(verb, resource)

    def wipe(self) -> None:
        """What the kubelet does at its start."""
        slices = KubeSlices(self.api, DRIVER, NODE)
        limit = Deadline(10, CLOCK)
        for obj in slices.list(limit).items:
            slices.delete(obj, limit)


def add_node(server: FakeApiServer) -> str:
    """Make the Node object; returns its UID."""
    node = server.add({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
    return str(node["metadata"]["uid"])


@contextmanager
def a_world(
    *devices: dict[str, Any], settings: FakeSettings | None = None, node: bool = True
) -> Iterator[World]:
    with FakeApiServer(settings) as server:
        if node:
            add_node(server)
        world = World(server, *devices)
        try:
            yield world
        finally:
            world.stop()
