"""A real cluster with the chart installed, and a tray's services on every node."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.beds.cluster.api import Cluster
from tests.beds.cluster.artifacts import build, programs
from tests.beds.cluster.driver import chart
from tests.beds.cluster.driver.base import ClusterBed, sim_home
from tests.beds.cluster.driver.trays import DRIVER, Tray
from tests.lib.waits import WaitError, wait_until
from tests.sim.api import SimRoot

PROFILE = "gb200-nvl4"
CONTROLLER_LABEL = "node-role.kubernetes.io/control-plane"
DOMAINS = "/apis/resource.nvidia.com/v1beta1"
FABRIC_NODES = "/apis/fabric.nvdra.io/v1alpha1/fabricnodes"
Json = dict[str, Any]


class DomainBed(ClusterBed):
    """A cluster with the controller in it, and trays."""

    def __init__(self, cluster: Cluster, trays: Iterable[Tray]) -> None:
        super().__init__(cluster)
        self.api = cluster.client
        self.trays = {tray.name: tray for tray in trays}
        self.is_shared = False
        """Isolation ``channel``: nvidia-imex runs without claims too."""

    @classmethod
    def up(
        cls,
        name: str,
        nodes: int = 2,
        *,
        kubernetes: str = programs.NEWEST,
        values: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        audit: bool = False,
        is_instant: bool = False,
    ) -> DomainBed:
        """Start the cluster, install the chart (``values``), start the services with ``settings``, wait until ready.

        The controller runs on the first two nodes, which alone have its image. ``is_instant``: a stub in place of the
        simulated nvidia-imex, whose full mesh of 18 in Python would dominate the measurement.
        """
        build.ensure(kubernetes)
        archive = chart.archive()
        cluster = Cluster.up(name, nodes, kubernetes, audit=audit)
        try:
            roots = sim_home(name)
            shutil.rmtree(roots, ignore_errors=True)  # of a run that was killed
            trays = [
                Tray(
                    node, SimRoot.create(roots / node.name, PROFILE, node=i), is_instant=is_instant
                )
                for i, node in enumerate(cluster.nodes)
            ]
            bed = cls(cluster, trays)
            imex = (values or {}).get("resources", {}).get("computeDomains", {}).get("imex", {})
            bed.is_shared = imex.get("isolation") == "channel"
            bed._install(archive, dict(values or {}))
            for tray in trays:
                tray.settings.update(settings or {})
                tray.start()
            bed.wait_ready()
            return bed
        except BaseException:
            cluster.down()
            shutil.rmtree(sim_home(name), ignore_errors=True)
            raise

    def _install(self, archive: Path, values: Json) -> None:
        hosts = self.cluster.nodes[:2]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda node: node.import_images(archive), hosts))
        for node in hosts:
            self.cluster.kubectl("label", "node", node.name, f"{CONTROLLER_LABEL}=")
        controller = {"nodeSelector": {CONTROLLER_LABEL: ""}} if len(self.trays) > 2 else {}
        kubelets = {"allowKubeletCredential": True}
        chart.install(self.cluster, {"controller": controller, "node": kubelets, **values})

    # --- observations

    def wait_ready(self, timeout_s: float = 120) -> None:
        """Wait until the controller is rolled out and every node has a slot and publishes its channel."""
        self.cluster.kubectl(
            "rollout", "status", "deployment/nvdra-controller", "-n", chart.NAMESPACE,
            f"--timeout={timeout_s:g}s", timeout_s=timeout_s + 10,
        )  # fmt: skip
        wait_until("a slot for each node", lambda: self._is_all(self.slots()), timeout_s)
        wait_until("a channel of each node", lambda: self._is_all(self.channels()), timeout_s)

    def _is_all(self, found: Mapping[str, object]) -> bool:
        return found.keys() == self.trays.keys()

    def slots(self) -> dict[str, int]:
        """Slot of each node whose clique and certificate are assigned and reported."""
        return {
            obj["metadata"]["name"]: obj["spec"]["slot"]
            for obj in self.api.get(FABRIC_NODES)["items"]
            if "slot" in obj.get("spec", {})
            and obj["spec"].get("cliqueID") == obj.get("status", {}).get("cliqueID")
            and (obj["spec"].get("certificate") or {}).get("certificate")
        }

    def channels(self) -> dict[str, Json]:
        """Published ``channel-0`` of each node."""
        slices = self.api.get("/apis/resource.k8s.io/v1/resourceslices")["items"]
        own = [s["spec"] for s in slices if s["spec"]["driver"] == DRIVER]
        return {
            spec["nodeName"]: device
            for spec in own
            for device in spec.get("devices", ())
            if device["name"] == "channel-0"
        }

    def fabric_node(self, node: str) -> Json:
        """The FabricNode of a node."""
        return self.api.get(f"{FABRIC_NODES}/{node}")

    @contextmanager
    def namespace(self, name: str) -> Iterator[str]:
        """A namespace; afterwards deletes its pods and domains and waits until nothing of them is left."""
        self.create_namespace(name)
        yield name
        for kind in ("pods", "computedomains"):
            self.cluster.kubectl(
                "delete", kind, "-n", name, "--all", "--timeout=90s", timeout_s=100
            )
        self.wait_clean()
        self.cluster.kubectl("delete", "namespace", name, "--wait=false")

    def domain(self, place: str, name: str) -> Json | None:
        """A ComputeDomain; None when there is none."""
        return self.find(f"{DOMAINS}/namespaces/{place}/computedomains/{name}")

    def pods(self, place: str) -> dict[str, Json]:
        """All pods of a namespace."""
        items = self.api.get(f"/api/v1/namespaces/{place}/pods")["items"]
        return {pod["metadata"]["name"]: pod for pod in items}

    def phases(self, place: str) -> dict[str, str]:
        """Phase of each pod."""
        return {name: pod["status"].get("phase", "") for name, pod in self.pods(place).items()}

    def wait_running(self, place: str, count: int, timeout_s: float = 120) -> None:
        """Wait until ``count`` pods are Running; the message has their events."""

        def running() -> bool:
            return list(self.phases(place).values()) == ["Running"] * count

        try:
            wait_until(f"{count} pods of {place} Running", running, timeout_s)
        except WaitError as error:
            raise WaitError(f"{error}: {self.phases(place)}\n{self.events(place)}") from error

    def wait_domain_deleted(self, place: str, name: str, timeout_s: float = 90) -> None:
        """Wait until a domain is deleted with its template, clique and FabricNode assignments."""
        template = f"/apis/resource.k8s.io/v1/namespaces/{place}/resourceclaimtemplates"
        clique = f"{DOMAINS}/namespaces/{chart.NAMESPACE}/computedomaincliques"

        def left() -> list[str]:
            found = [] if self.domain(place, name) is None else [f"computedomain {name}"]
            for path in (template, clique):
                found += [item["metadata"]["name"] for item in self.api.get(path)["items"]]
            nodes = self.api.get(FABRIC_NODES)["items"]
            return found + [n["metadata"]["name"] for n in nodes if n["spec"].get("domains")]

        wait_until(f"nothing left of {name}", lambda: not left(), timeout_s)

    def leftovers(self) -> list[str]:
        """See ClusterBed; with isolation ``domain`` a running nvidia-imex too."""
        found = [f"{t.name}:{path}" for t in self.trays.values() for path in t.leftovers()]
        running = [] if self.is_shared else [t for t in self.trays.values() if t.imex()["pid"]]
        return found + [f"{t.name}: nvidia-imex" for t in running]
