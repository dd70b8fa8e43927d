"""Many nodes' halves of a ComputeDomain in one process: ``python -m tests.bench.domain.agents NUMBER WORK OUT PIDS``.

Each agent has the shipped supervisor with its threads, its watch of the FabricNode and its status writer, an API
client and a token of its own, bound to its own Node; what is made up is nvidia-imex, which is READY as soon as it runs,
and the fabric. A prepare reads the claim, joins, and writes the claim's status, as the plugin does. Started by
``formation`` beside the control plane of a cluster without kubelets for these nodes; what the scheduler would do, this
process does as an administrator.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from nvdra_core.api.fabric import FabricNodeStatus, FabricState
from nvdra_core.errors import NvdraError
from nvdra_core.kube.resources import CLAIMS, FABRIC_NODES, NODES, SLICES, Resource, WriteOptions
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.checkpoint.claim import ClaimRef
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.host.files import HostFiles
from nvdra_node.imex.daemon import render
from nvdra_node.imex.daemon.control import Dependencies
from nvdra_node.imex.daemon.ctl import ImexDomainStatus
from nvdra_node.imex.daemon.render import Layout
from nvdra_node.imex.daemon.store import Store
from nvdra_node.imex.model import Fabric, Holder, HostAddresses, Policy
from nvdra_node.imex.report import status as report
from nvdra_node.imex.report.writer import StatusWriter
from nvdra_node.imex.sources.spec import SpecReflector
from nvdra_node.imex.supervisor import Supervisor
from nvdra_node.kube.client import Client
from nvdra_node.kube.config import KubeConfig
from nvdra_node.kube.dra import DraApi
from nvdra_node.kubeletplugin.claims import reader as claim_reader
from nvdra_node.kubeletplugin.claims.status_writer import to_status
from tests.bench.plugin import proc
from tests.fakes.imex import FakeDaemon
from tests.lib.objects import reference
from tests.lib.waits import wait_until

DRIVER = "compute-domain.nvidia.com"
NAMESPACE, TEAM, DOMAIN = "nvdra", "team", "train"
CLIQUE_SIZE = 18
CLUSTER_UUID = "7b968a6d-c8aa-45e1-9e07-e1e51be99c31"
STACK_BYTES = 256 << 10
WRITERS = 8
TIMEOUT_S = 300.0
DOMAINS = Resource("resource.nvidia.com", "v1beta1", "computedomains")
TEMPLATES = Resource("resource.k8s.io", "v1", "resourceclaimtemplates")
TOKENS = Resource("", "v1", "serviceaccounts", subresource="token")
CLOCK = SystemClock()
Json = dict[str, Any]


@dataclass
class Times:
    """Of one node, on the monotonic clock."""

    asked_s: float = 0.0
    released_s: float = 0.0
    error: str = "not prepared"


class Agent:
    """One node. Built without starting."""

    def __init__(self, index: int, config: KubeConfig, work: Path) -> None:
        self.name = node_name(index)
        self.times = Times()
        self._client = Client(config)
        self._api = DraApi(self._client)
        self._layout = Layout(work / "run", work / "tls", work / "persist")
        address = f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}"
        daemon = FakeDaemon()
        self.supervisor = Supervisor(
            Dependencies(
                unit=daemon, ctl=daemon, clock=CLOCK, policy=Policy(), boot_id=f"boot-{index}",
                store=Store(HostFiles(), self._layout, work / "node.json"),
                addresses=HostAddresses(chosen=address),
            )
        )  # fmt: skip
        self._machine = report.Machine(boot_id=f"boot-{index}", channel_count=2048)
        self._spec = SpecReflector(self._client, FABRIC_NODES, self.name, self.supervisor.set_spec)
        self._status = StatusWriter(self._client, FABRIC_NODES, self.name, self._report, CLOCK)
        self._fabric = Fabric(
            state=FabricState.COMPLETED,
            cluster_uuid=CLUSTER_UUID,
            clique_id=f"{CLUSTER_UUID}.{index // CLIQUE_SIZE}",
            driver_version="580.65.06",
        )

    def start(self, stopping: threading.Event) -> None:
        """Begin as the service does: take over, then one thread each."""
        self.supervisor.open()
        self.supervisor.subscribe(self._status.changed)
        self.supervisor.set_fabric(self._fabric)
        for run in (
            lambda: self.supervisor.run(stopping),
            self._spec.run,
            lambda: self._status.run(stopping),
        ):
            threading.Thread(target=run, daemon=True).start()

    def stop(self) -> None:
        """End what waits, after ``stopping`` was set."""
        self._spec.stop()
        self._status.stop()
        self.supervisor.trigger()
        self._client.close()

    def has_slot(self) -> bool:
        """Whether the controller gave it a place in its clique."""
        spec = self.supervisor.snapshot.situation.spec
        return spec is not None and spec.slot is not None

    def prepare(self, ref: ClaimRef, domain_uid: str) -> None:
        """What a prepare asks of the API and of the supervisor; an error is kept for the end. For a thread."""
        try:
            self._prepare(ref, domain_uid)
            self.times.error = ""
        except (NvdraError, RuntimeError) as error:
            self.times.error = f"{self.name}: {error}"

    def _prepare(self, ref: ClaimRef, domain_uid: str) -> None:
        self.times.asked_s = time.monotonic()
        deadline = Deadline(TIMEOUT_S, CLOCK)
        reader = claim_reader.ClaimReader(self._api, DRIVER, self.name, _Uncounted())
        reader.fetch(ref, deadline)
        holder = Holder(time.time(), domain_uid, ref.namespace, ref.name, ref.uid)
        joined = self.supervisor.claims.join(holder, deadline)
        self.times.released_s = time.monotonic()
        if not joined.readiness.is_ready:
            raise RuntimeError(f"{joined.readiness.reason} {joined.refused}")
        device = PreparedDevice(
            request="channel", pool=self.name, device="channel-0", kind="channel", cdi_ids=("x",)
        )
        body = to_status(ref, [device], driver=DRIVER, at_s=time.time())
        options = WriteOptions(field_manager=f"nvdra-{DRIVER}", force=True)
        self._api.apply_claim_status(body, options=options, deadline=deadline)

    def _report(self) -> tuple[FabricNodeStatus, float]:
        snapshot = self.supervisor.snapshot
        if (run := snapshot.run) is not None:  # as soon as there is a peer, it is connected
            peers = frozenset(render.peers(run, snapshot.situation.spec))
            snapshot = replace(snapshot, view=ImexDomainStatus(own=run.slot, connected=peers))
        return report.status(snapshot, self._machine, self._layout), 60.0


class _Uncounted:
    """Reads of claims are counted in the API server's audit log."""

    def claim_read(self, outcome: str = "") -> None:
        """See ``claims.ReadMetrics``."""


def node_name(index: int) -> str:
    """As in a row of racks."""
    return f"tray-{index // CLIQUE_SIZE:03}-{index % CLIQUE_SIZE:02}"


class Formation:
    """The administrator, the scheduler and the clock of one run."""

    def __init__(self, number: int, work: Path, programs: Mapping[str, int]) -> None:
        """``programs``: whose CPU time is counted, with their process ids."""
        self._programs = {**programs, "agents": os.getpid()}
        self._config = KubeConfig.load(os.environ["KUBECONFIG"])
        self._admin = Client(self._config)
        self._number = number
        self._work = work
        self._pool = ThreadPoolExecutor(WRITERS)

    def run(self) -> Json:
        """Nodes, agents, one domain over all of them, its end; the figures."""
        stopping = threading.Event()
        agents = self._each(self._enroll, range(self._number))
        threading.stack_size(STACK_BYTES)
        for agent in agents:
            agent.start(stopping)
        wait_until("a slot for each node", lambda: all(a.has_slot() for a in agents), TIMEOUT_S)
        time.sleep(3.0)  # what follows the slots: lists of peers
        since_s, began_s, cpu_s = time.time(), time.monotonic(), self._cpu_s()
        template, uid = self._create_domain()
        template_s = time.monotonic() - began_s
        preparing = self._allocate(agents, template, uid)
        for thread in preparing:
            thread.join(TIMEOUT_S)
        if errors := [agent.times.error for agent in agents if agent.times.error]:
            raise SystemExit(f"{len(errors)} claims are not prepared, first: {errors[0]}")
        wait_until(
            "the domain is Ready",
            lambda: self._domain()["status"].get("status") == "Ready",
            TIMEOUT_S,
        )
        ready_s = time.monotonic() - began_s
        time.sleep(3.0)  # writes that follow
        found = _figures(agents, began_s) | {
            "templateSeconds": template_s,
            "domainReadySeconds": ready_s,
            "cpuSeconds": {name: now - cpu_s[name] for name, now in self._cpu_s().items()},
            "since": since_s,
            "until": time.time(),
        }
        stopping.set()
        for agent in agents:
            agent.stop()
        return found

    def _cpu_s(self) -> dict[str, float]:
        return {name: proc.cpu_s([pid]) for name, pid in self._programs.items()}

    def _each(self, act: Callable[[int], Agent], of: Iterable[int]) -> list[Agent]:
        return list(self._pool.map(act, of))

    def _enroll(self, index: int) -> Agent:
        """A Node that is Ready, its token, its slice with a channel; the agent."""
        name = node_name(index)
        ready = {"type": "Ready", "status": "True"}
        node = self._admin.create(
            NODES, {"metadata": {"name": name}, "status": {"conditions": [ready]}}
        )
        uid = node["metadata"]["uid"]
        bound = reference("Node", name, uid=uid)
        token = self._admin.create(
            TOKENS,
            {
                "metadata": {"name": "nvdra-node", "namespace": NAMESPACE},
                "spec": {"audiences": [], "boundObjectRef": bound},
            },
        )["status"]["token"]
        channel = {"type": {"string": "channel"}, "id": {"int": 0}}
        pool = {"name": name, "generation": 1, "resourceSliceCount": 1}
        self._admin.create(
            SLICES,
            {
                "metadata": {"name": f"{name}-cd"},
                "spec": {
                    "driver": DRIVER, "nodeName": name, "pool": pool,
                    "devices": [{"name": "channel-0", "attributes": channel}],
                },
            },
        )  # fmt: skip
        own = {"token": token, "client_cert_data": b"", "client_key_data": b""}
        config = dataclasses.replace(self._config, **own, client_cert_file="", client_key_file="")
        return Agent(index, config, self._work / name)

    def _create_domain(self) -> tuple[Json, str]:
        """One domain for all nodes; its template's spec, and its UID."""
        channel = {"resourceClaimTemplate": {"name": f"{DOMAIN}-channel"}}
        made = self._admin.create(
            DOMAINS,
            {
                "apiVersion": DOMAINS.api_version, "kind": "ComputeDomain",
                "metadata": {"name": DOMAIN, "namespace": TEAM},
                "spec": {"numNodes": self._number, "channel": channel},
            },
        )  # fmt: skip

        def template() -> Json | None:
            items = self._admin.list(TEMPLATES, namespace=TEAM).items
            return items[0]["spec"] if items else None

        return wait_until("the domain's template", template, TIMEOUT_S), made["metadata"]["uid"]

    def _allocate(self, agents: list[Agent], template: Json, uid: str) -> list[threading.Thread]:
        """A claim for each node, allocated as the scheduler does; each is prepared as soon as it is."""

        def one(agent: Agent) -> threading.Thread:
            ref = self._claim(agent.name, template)
            thread = threading.Thread(target=agent.prepare, args=(ref, uid), daemon=True)
            thread.start()
            return thread

        return list(self._pool.map(one, agents))

    def _claim(self, node: str, template: Json) -> ClaimRef:
        metadata = {**template.get("metadata", {}), "name": f"claim-{node}", "namespace": TEAM}
        claim = self._admin.create(CLAIMS, {"metadata": metadata, "spec": template["spec"]})
        request = template["spec"]["devices"]["requests"][0]["name"]
        result = {"request": request, "driver": DRIVER, "pool": node, "device": "channel-0"}
        configs = [
            {"source": "FromClaim", **entry}
            for entry in template["spec"]["devices"].get("config", [])
        ]
        here = {"key": "metadata.name", "operator": "In", "values": [node]}
        claim["status"] = {
            "allocation": {
                "devices": {"results": [result], "config": configs},
                "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [here]}]},
            },
            "reservedFor": [{"resource": "pods", "name": node, "uid": f"pod-{node}"}],
        }
        self._admin.update(CLAIMS.sub("status"), claim)
        return ClaimRef(TEAM, metadata["name"], claim["metadata"]["uid"])

    def _domain(self) -> Json:
        found = self._admin.get(DOMAINS, DOMAIN, namespace=TEAM)
        return {"status": {}, **found}


def _figures(agents: list[Agent], began_s: float) -> Json:
    asked = [agent.times.asked_s for agent in agents]
    waits = sorted(agent.times.released_s - agent.times.asked_s for agent in agents)
    released_s = max(agent.times.released_s for agent in agents)
    return {
        "agents": len(agents),
        "firstPrepareToLastReleaseSeconds": released_s - min(asked),
        "lastAllocationToLastReleaseSeconds": released_s - max(asked),
        "createToLastReleaseSeconds": released_s - began_s,
        "prepareSeconds": {
            "p50": waits[len(waits) // 2],
            "p99": waits[min(len(waits) - 1, int(len(waits) * 0.99))],
        },
    }


def main() -> None:
    """Run and write the figures as JSON, at once and whole."""
    number, work, out = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    found = Formation(number, work, json.loads(sys.argv[4])).run()
    part = out.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.rename(out)


if __name__ == "__main__":
    main()
