"""The controller at scale: ``python -m tests.bench.controller [--nodes 10000] [--domains 1000]``.

The API server in memory runs in this process, the shipped controller in another, whose memory and
CPU time are measured. Prints one JSON object:

- ``start_s``: start of the process to the first write (everything listed), and its CPU time.
- ``slots_s``: until every node has its slot; ``slot_writes`` is what that cost.
- ``templates_s``: from the first of so many domains that are created at once to the last template.
- ``join_ms``: from the allocation of a claim to the domain in the FabricNode (median, worst).
- ``heartbeat_cpu_ms``: CPU time that one heartbeat of a node costs the controller.
- ``rss_mib``: resident memory at the end, and its peak.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nvdra_cluster.decide.model import DOMAIN_LABEL
from nvdra_node.kube.client import Client
from tests.fakes.apiserver.server import FakeApiServer
from tests.lib import objects
from tests.lib.waits import wait_until

Json = dict[str, Any]
NAMESPACE, TEAM = "nvdra", "team"
CLIQUE_SIZE = 18
TIMEOUT_S = 600.0
DRIVER = "compute-domain.nvidia.com"
JOINS = 36
HEARTBEATS = 2000


def seconds_until(what: str, condition: Callable[[], bool], interval_s: float = 0.05) -> float:
    """Seconds until ``condition`` is true."""
    began_at = time.monotonic()
    wait_until(what, condition, TIMEOUT_S, interval_s)
    return time.monotonic() - began_at


def node_name(index: int) -> str:
    return f"tray-{index // CLIQUE_SIZE:04}-{index % CLIQUE_SIZE:02}"


def clique_id(index: int) -> str:
    return f"7b968a6d-c8aa-45e1-9e07-{index // CLIQUE_SIZE:012x}.32766"


def a_status(index: int, beat: int = 0) -> Json:
    return {
        "bootID": f"boot-{index}",
        "clusterUUID": clique_id(index).partition(".")[0],
        "cliqueID": clique_id(index),
        "addresses": [f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}"],
        "driverVersion": "580.65.06",
        "channelCount": 2048,
        "fabricState": "Completed",
        "imex": {"state": "STOPPED"},
        "heartbeatTime": f"2099-01-01T00:00:00.{beat:06}Z",
    }


def fill(server: FakeApiServer, nodes: int) -> None:
    """Nodes as the kubelet writes them, with images; slices and FabricNodes."""
    for name in (NAMESPACE, TEAM):
        server.add(objects.obj("Namespace", name))
    images = [
        {"names": [f"registry.example/team/image-{n}@sha256:{n:064x}"], "sizeBytes": n}
        for n in range(50)
    ]
    for index in range(nodes):
        name = node_name(index)
        labels = {f"label-{n}": "x" * 20 for n in range(20)}
        status = {"images": images, "conditions": [{"type": "Ready", "status": "True"}]}
        server.add(objects.obj("Node", name, meta={"labels": labels}, status=status))
        channel = objects.channel()
        server.add(objects.resource_slice(f"slice-{name}", name, [channel], driver=DRIVER))
        server.add(objects.obj("FabricNode", name, status=a_status(index)))


class Program:
    """The controller in a process of its own."""

    def __init__(self, server: FakeApiServer, directory: Path) -> None:
        kubeconfig = server.write_kubeconfig(directory / "kubeconfig")
        self._log = (directory / "controller.log").open("wb")
        argv = [sys.executable, "-m", "nvdra_cluster.cli", "--kubeconfig", str(kubeconfig),
                "--namespace", NAMESPACE, "--log-verbosity", "0"]  # fmt: skip
        self._process = subprocess.Popen(argv, stdout=self._log, stderr=self._log)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> dict[str, float]:
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
        return {"now": int(found["VmRSS"]) / 1024, "peak": int(found["VmHWM"]) / 1024}


def specs_with_slot(server: FakeApiServer) -> int:
    nodes = server.objects("fabricnodes", "fabric.nvdra.io")
    return sum(1 for node in nodes if (node.get("spec") or {}).get("slot") is not None)


def measure_domains(server: FakeApiServer, domains: int) -> Json:
    """Create all at once; wait for the last template and for the last status."""
    server.api.log.clear()
    began_s = time.monotonic()
    for index in range(domains):
        server.add(objects.domain(f"domain-{index}", TEAM))
    seconds_until("templates", lambda: len(server.objects("resourceclaimtemplates")) == domains)
    templates_s = time.monotonic() - began_s

    def have_statuses() -> bool:
        return all(d.get("status") for d in server.objects("computedomains", "resource.nvidia.com"))

    seconds_until("statuses", have_statuses)
    log = server.api.log
    writes = sum(log.count(verb) for verb in ("create", "patch", "update", "delete"))
    return {
        "templates_s": round(templates_s, 2),
        "statuses_s": round(time.monotonic() - began_s, 2),
        "writes_per_domain": round(writes / domains, 2),
        "conflicts": log.count(code=409),
    }


def measure_joins(server: FakeApiServer, client: Client) -> Json:
    """Claims of one domain on the nodes of two cliques, one after another."""
    domain = server.objects("computedomains", "resource.nvidia.com")[0]["metadata"]
    taken_ms = []
    for index in range(JOINS):
        node = node_name(index)
        result = objects.result("channel-0", node, "channel", DRIVER)
        claim = objects.claim(
            f"claim-{index}",
            TEAM,
            objects.request("channel", "c"),
            meta={"labels": {DOMAIN_LABEL: domain["uid"]}},
            status={
                "allocation": objects.allocation(result, node=node),
                "reservedFor": objects.reserved_for("p", f"p{index}"),
            },
        )
        server.add(claim)
        began_s = time.monotonic()
        kind = server.api.router.kinds["fabric.nvdra.io", "fabricnodes"]

        def has_domain() -> bool:
            entry = server.api.store.find(kind, "", node)  # noqa: B023
            return bool(entry and (entry.obj.get("spec") or {}).get("domains"))

        seconds_until("the FabricNode names the domain", has_domain, interval_s=0.002)
        taken_ms.append((time.monotonic() - began_s) * 1000)
    return {"median": round(statistics.median(taken_ms), 1), "worst": round(max(taken_ms), 1)}


def measure_heartbeats(server: FakeApiServer, program: Program, nodes: int) -> float:
    """CPU milliseconds of the controller for one heartbeat."""
    kind = server.api.router.kinds["fabric.nvdra.io", "fabricnodes"]
    before_s = program.cpu_s()
    for beat in range(HEARTBEATS):
        name = node_name(beat % nodes)
        with server.api.store.lock:
            entry = server.api.store.find(kind, "", name)
            assert entry is not None
            status = {**entry.obj["status"], "heartbeatTime": f"2099-01-01T00:00:01.{beat:06}Z"}
            obj = {**entry.obj, "metadata": dict(entry.obj["metadata"]), "status": status}
            server.api.store.put(kind, type(entry)(obj, 0, entry.owners))
        threading.Event().wait(0.001)
    time.sleep(2.0)
    return (program.cpu_s() - before_s) * 1000 / HEARTBEATS


def run(nodes: int, domains: int) -> Json:
    """Everything, in order."""
    found: Json = {"nodes": nodes, "domains": domains}
    server = FakeApiServer()
    fill(server, nodes)
    with tempfile.TemporaryDirectory() as directory:
        server.start()
        client = Client(server.config())
        try:
            with Program(server, Path(directory)) as program:
                log = server.api.log
                found["start_s"] = round(
                    seconds_until("first write", lambda: log.count("patch") > 0), 2
                )
                found["start_cpu_s"] = round(program.cpu_s(), 2)
                found["slots_s"] = round(
                    seconds_until("slots", lambda: specs_with_slot(server) == nodes), 2
                )
                found["slot_writes"] = log.count("patch", "fabricnodes")
                found["after_slots_mib"] = program.memory_mib()
                found |= measure_domains(server, domains)
                found["join_ms"] = measure_joins(server, client)
                found["heartbeat_cpu_ms"] = round(measure_heartbeats(server, program, nodes), 3)
                found["rss_mib"] = {k: round(v) for k, v in program.memory_mib().items()}
                found["cpu_s"] = round(program.cpu_s(), 1)
        finally:
            client.close()
            server.stop()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.controller", description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--domains", type=int, default=1_000)
    chosen = parser.parse_args()
    print(json.dumps(run(chosen.nodes, chosen.domains), indent=2))


if __name__ == "__main__":
    main()
