"""Times of the steps of a forming job on each node, seen by watching the API; wall clock, seconds.

One watch per kind, in the cluster's network namespace; the moments are those at which a change arrived here. What the
services themselves did, between a claim's allocation and its channel, their logs tell (``Moments.of_logs``).
"""

from __future__ import annotations

import calendar
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from nvdra_core.kube.reflector import Reflector
from nvdra_core.kube.resources import CLAIMS, FABRIC_NODES, Resource
from nvdra_core.runtime.clock import SystemClock
from nvdra_node.kube.client import Client
from nvdra_node.kube.config import KubeConfig
from nvdra_node.kube.listwatch import ClientListWatch
from tests.beds.cluster.api import Cluster
from tests.beds.cluster.control import wire
from tests.beds.cluster.driver.trays import DRIVER, PLUGIN, SUPERVISOR, Tray

PODS = Resource("", "v1", "pods")
STEPS = ("scheduled", "allocated", "asked", "assigned", "ready", "prepared", "running")
"""What happens to a pod's node, in the order of the table.

scheduled: the pod has its node; allocated: the claim has the node's channel; asked: the claim waits at the supervisor;
assigned: the controller names the domain in the FabricNode; ready: the node says that the domain is; prepared: the
kubelet has its answer; running: the pod is Running.
"""
_LINE = re.compile(r"^(\S+)Z \w \S+: (.*)$")
_LOGGED = {SUPERVISOR: ("asked", "claim joins"), PLUGIN: ("prepared", "prepare op=")}


class Moments:
    """The first moment of each step on each node, by node and step."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, float]] = {}
        self.running: set[str] = set()
        self.changed = threading.Condition()
        self._pod_of: dict[str, str] = {}

    def note(self, node: str, step: str, at_s: float) -> None:
        """Keep the first moment."""
        self.seen.setdefault(node, {}).setdefault(step, at_s)

    def pod(self, obj: dict[str, Any], at_s: float) -> None:
        """A pod as it is now."""
        node = obj["spec"].get("nodeName")
        if not node:
            return
        self.note(node, "scheduled", at_s)
        if obj["status"].get("phase") == "Running":
            self.note(node, "running", at_s)
            self.running.add(obj["metadata"]["name"])

    def claim(self, obj: dict[str, Any], at_s: float) -> None:
        """A claim as it is now."""
        allocation = obj.get("status", {}).get("allocation") or {}
        for result in allocation.get("devices", {}).get("results", ()):
            if result["driver"] == DRIVER:
                self.note(result["pool"], "allocated", at_s)

    def fabric_node(self, obj: dict[str, Any], at_s: float) -> None:
        """A FabricNode as it is now."""
        name = obj["metadata"]["name"]
        if (obj.get("spec") or {}).get("domains"):
            self.note(name, "assigned", at_s)
        if any(domain.get("ready") for domain in (obj.get("status") or {}).get("domains") or ()):
            self.note(name, "ready", at_s)

    def of_logs(self, tray: Tray, since_s: float) -> None:
        """Add what a tray's services logged since a moment."""
        for service, (step, words) in _LOGGED.items():
            for line in tray.logged(service).splitlines():
                match = _LINE.match(line)
                if match and match[2].startswith(words) and (at_s := _wall(match[1])) >= since_s:
                    self.note(tray.name, step, at_s)

    def steps(self, since_s: float) -> dict[str, dict[str, float]]:
        """Seconds after ``since_s``, by node and step."""
        return {
            node: {step: at_s - since_s for step, at_s in found.items()}
            for node, found in sorted(self.seen.items(), key=lambda item: item[1].get("running", 0))
        }


class _Taker:
    """A Store that passes each object on with the time."""

    def __init__(self, moments: Moments, take: Callable[[dict[str, Any], float], None]) -> None:
        self._moments = moments
        self._take = take

    def replace(self, objects: Iterable[dict[str, Any]]) -> None:
        for obj in objects:
            self.put(obj)

    def put(self, obj: dict[str, Any]) -> None:
        with self._moments.changed:
            self._take(obj, time.time())
            self._moments.changed.notify_all()

    def delete(self, obj: dict[str, Any]) -> None:
        pass


class Watcher:
    """Watches a namespace's pods and claims and all FabricNodes while it is entered."""

    def __init__(self, cluster: Cluster, place: str) -> None:
        self.moments = Moments()
        self._client = Client(KubeConfig.load(str(cluster.layout.admin_kubeconfig)))
        takers: dict[Resource, Callable[[dict[str, Any], float], None]] = {
            PODS: self.moments.pod,
            CLAIMS: self.moments.claim,
            FABRIC_NODES: self.moments.fabric_node,
        }
        self._reflectors = [
            Reflector(
                ClientListWatch(
                    self._client, kind, namespace="" if kind is FABRIC_NODES else place
                ),
                _Taker(self.moments, take),
                SystemClock(),
            )
            for kind, take in takers.items()
        ]
        self._netns = cluster.layout.netns

    def __enter__(self) -> Moments:
        with wire.inside(self._netns):
            for reflector in self._reflectors:
                threading.Thread(target=reflector.run, daemon=True).start()
        for reflector in self._reflectors:
            if not reflector.synced.wait(30):
                raise TimeoutError("the API server lists nothing")
        return self.moments

    def __exit__(self, *exc: object) -> None:
        for reflector in self._reflectors:
            reflector.stop()
        self._client.close()


def _wall(text: str) -> float:
    whole, _, fraction = text.partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")
