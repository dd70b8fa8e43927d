"""A real cluster with a simulated GPU host and the shipped GPU service on each node: ``Bed.up``.

The service is the process ``nvdra-node gpu`` with the kubelet's credential, in the namespaces of the node.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.beds.cluster.api import Cluster
from tests.beds.cluster.artifacts import build, programs
from tests.beds.cluster.driver.base import ClusterBed, sim_home
from tests.beds.cluster.machine.node import Node
from tests.beds.cluster.machine.processes import Process
from tests.lib.waits import WaitError, wait_until
from tests.sim.api import SimRoot

TOP = Path(__file__).resolve().parents[4]
DEVICE_CLASSES = TOP / "charts" / "nvdra" / "files" / "deviceclasses.yaml"
DRIVER = "gpu.nvidia.com"
SERVICE = "nvdra-gpu-plugin"


@dataclass
class GpuNode:
    """One node of the bed: the cluster's node, its simulated host, and the service on it."""

    node: Node
    sim: SimRoot
    flags: tuple[str, ...] = ()
    service: Process | None = field(default=None)

    @property
    def name(self) -> str:
        """Node name, which is also the pool's."""
        return self.node.name

    def argv(self) -> list[str]:
        """The command that the unit runs, with the roots of the simulated host."""
        toolkit = programs.NVIDIA.home()
        root = self.sim.path
        return [
            sys.executable, "-m", "nvdra_node", "gpu",
            "--node-name", self.name,
            "--kubeconfig", str(self.node.kubeconfig),
            "--driver-root", str(root),
            "--dev-root", str(root / "dev"),
            "--proc-root", str(self.sim.proc),
            "--sys-root", str(self.sim.sys),
            "--nvidia-ctk-path", str(toolkit / "nvidia-ctk"),
            "--nvidia-cdi-hook-path", str(toolkit / "nvidia-cdi-hook"),
            "--http-endpoint", "127.0.0.1:9899",
            "-v", "4",
            *self.flags,
        ]  # fmt: skip

    def start(self) -> Process:
        """Start the service."""
        self.service = self.node.popen(self.argv(), name=SERVICE, env={"PYTHONPATH": str(TOP)})
        return self.service

    def stop(self, *, kill: bool = False) -> None:
        """End the service with SIGTERM, or with SIGKILL."""
        if self.service:
            self.service.end(kill=kill)
            self.service = None

    def restart(self, *, kill: bool = False) -> None:
        """Stop and start the service."""
        self.stop(kill=kill)
        self.start()

    def configure_kubelet(self, **settings: object) -> None:
        """Change settings of the kubelet's configuration, and restart it."""
        path = self.node.path("/var/lib/kubelet/config.yaml")
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
        self.node.restart("kubelet")

    def files(self, pattern: str) -> list[str]:
        """Files of the node that match a glob, as the node names them."""
        place, _, name = pattern.rpartition("/")
        return sorted(str(p) for p in self.node.path(place).glob(name))

    def leftovers(self) -> list[str]:
        """Records, CDI files and temporary files of claims: empty when nothing is prepared."""
        state = f"/var/lib/nvdra/{DRIVER}"
        found = [*self.files("/run/cdi/*"), *self.files(f"{state}/claims/*")]
        return [*found, *self.files(f"{state}/quarantine/*")]

    def sockets(self) -> list[str]:
        """Everything that the service put into the kubelet's directories, but for its lock file."""
        found = [
            *self.files("/var/lib/kubelet/plugins_registry/*"),
            *self.files(f"/var/lib/kubelet/plugins/{DRIVER}/*"),
        ]
        return [path for path in found if not path.endswith("/nvdra.lock")]

    def log_size(self) -> int:
        """Size of the log so far, for ``logged``."""
        return self._log.stat().st_size if self._log.exists() else 0

    def logged(self, since: int = 0) -> str:
        """Log lines after a size that ``log_size`` returned."""
        with self._log.open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    def wait_registered(self, since: int, timeout_s: float = 30) -> None:
        """Wait until the kubelet has registered the service again after a mark."""
        wait_until(
            "registered", lambda: "registered by the kubelet" in self.logged(since), timeout_s
        )

    @property
    def _log(self) -> Path:
        return self.node.layout.logs / f"{self.name}.{SERVICE}.log"


class Bed(ClusterBed):
    """A cluster whose nodes have GPUs and run the service."""

    def __init__(self, cluster: Cluster, nodes: Iterable[GpuNode]) -> None:
        super().__init__(cluster)
        self.nodes = {gpu_node.name: gpu_node for gpu_node in nodes}

    @classmethod
    def up(
        cls,
        name: str,
        *,
        nodes: int = 1,
        kubernetes: str = programs.NEWEST,
        profile: str = "h100x8",
        flags: tuple[str, ...] = (),
        start: bool = True,
        audit: bool = False,
    ) -> Bed:
        """Start the cluster, apply the device classes, create a simulated host per node, start the services."""
        build.ensure(kubernetes)
        cluster = Cluster.up(name, nodes, kubernetes, audit=audit)
        try:
            roots = sim_home(name)
            shutil.rmtree(roots, ignore_errors=True)  # of a run that was killed
            made = [
                GpuNode(node, SimRoot.create(roots / node.name, profile, node=i), flags)
                for i, node in enumerate(cluster.nodes)
            ]
            bed = cls(cluster, made)
            cluster.apply(DEVICE_CLASSES.read_text())
            if start:
                for gpu_node in made:
                    gpu_node.start()
            return bed
        except BaseException:
            cluster.down()
            shutil.rmtree(sim_home(name), ignore_errors=True)
            raise

    def down(self) -> None:
        """See ClusterBed."""
        for gpu_node in self.nodes.values():
            gpu_node.stop(kill=True)
        super().down()

    @property
    def only(self) -> GpuNode:
        """The node of a bed with one node."""
        (gpu_node,) = self.nodes.values()
        return gpu_node

    def get(self, *what: str) -> Any:
        """``kubectl get ... -o json``, parsed."""
        return json.loads(self.cluster.kubectl("get", *what, "-o", "json"))

    def slices(self) -> list[Any]:
        """All ResourceSlices of the driver."""
        found = self.cluster.client.get("/apis/resource.k8s.io/v1/resourceslices")["items"]
        return [s for s in found if s["spec"]["driver"] == DRIVER]

    def wipe_slices(self) -> bool:
        """Delete all ResourceSlices of the driver, as a kubelet does when it misses the service."""
        path = "/apis/resource.k8s.io/v1/resourceslices"
        self.cluster.client.request("DELETE", f"{path}?fieldSelector=spec.driver%3D{DRIVER}")
        return True

    def devices(self, node: str) -> dict[str, Any]:
        """Published devices of a node by name, of the newest generation only."""
        own = [s["spec"] for s in self.slices() if s["spec"]["nodeName"] == node]
        newest = max((s["pool"]["generation"] for s in own), default=0)
        current = [s for s in own if s["pool"]["generation"] == newest]
        return {d["name"]: d for s in current for d in s.get("devices") or ()}

    def wait_for_devices(self, count: int | None = None, timeout_s: float = 30) -> None:
        """Wait until every node publishes all of its GPUs (or ``count``)."""
        wanted = {
            name: len(n.sim.profile.gpus) if count is None else count
            for name, n in self.nodes.items()
        }

        def published() -> dict[str, int]:
            return {name: len(self.devices(name)) for name in wanted}

        wait_until(f"GPUs published: {wanted}", lambda: published() == wanted, timeout_s)

    def pod_phase(self, place: str, name: str) -> str:
        """``status.phase`` of a pod; empty when there is none."""
        return self.cluster.kubectl(
            "get", "pod", "-n", place, name, "-o", "jsonpath={.status.phase}", check=False
        ).strip()

    def wait_running(self, place: str, *pods: str, timeout_s: float = 60) -> None:
        """Wait until pods are Running; the message has their events."""

        def waiting() -> dict[str, str]:
            phases = {name: self.pod_phase(place, name) for name in pods}
            return {name: phase for name, phase in phases.items() if phase != "Running"}

        try:
            wait_until(f"pods of {place} Running", lambda: not waiting(), timeout_s)
        except WaitError as error:
            raise WaitError(f"{error}; {waiting()}\n{self.events(place)}") from error

    def uuids(self, place: str, name: str, container: str = "ctr") -> list[str]:
        """GPUs that the real ``nvidia-smi -L`` printed in the container, by UUID."""

        def printed() -> list[str]:
            text = self.cluster.kubectl("logs", "-n", place, name, "-c", container, check=False)
            return re.findall(r"GPU \d+: .*\(UUID: (GPU-[0-9a-f-]+)\)", text)

        seen: list[str] = wait_until(
            f"nvidia-smi -L printed in {place}/{name}/{container}", printed, 20
        )
        return seen

    def delete_namespace(self, place: str, timeout_s: float = 90) -> None:
        """Delete a namespace, and wait for the end of its pods only: its controller takes 5 s for the empty namespace."""
        limit = f"--timeout={timeout_s:g}s"
        self.cluster.kubectl("delete", "pods", "-n", place, "--all", "--wait=true", limit)
        self.cluster.kubectl("delete", "namespace", place, "--wait=false")

    def leftovers(self) -> list[str]:
        """See ClusterBed."""
        return [f"{n.name}:{path}" for n in self.nodes.values() for path in n.leftovers()]
