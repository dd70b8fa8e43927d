"""How a ComputeDomain over many nodes forms: ``python -m tests.bench.domain.formation [--agents 18 144 1008] [-o json]``.

A real API server with the chart's objects and the shipped controller beside it; the nodes' halves are ``agents`` in one
process, without kubelets. Prints time, requests by verb and code, conflicts, and how time grows with the nodes. All of
it shares this machine's processors, so with many agents it is mostly their CPU time that is seen: it is printed too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.beds.cluster import capability
from tests.beds.cluster.api import Cluster
from tests.beds.cluster.driver import audit
from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.machine import processes
from tests.bench.domain.agents import NAMESPACE, TEAM
from tests.unit.chart import helm

CLUSTER = "formation"
TOP = Path(__file__).resolve().parents[3]
SIZES = (18, 144, 1008)
GROWTH_GOAL = 2.0
LIMIT_S = 900.0
SHARED_MEMORY = Path("/dev/shm")
"""Where agents keep their files: each real node has a disk of its own."""
LEFT_OUT = ("Deployment", "PodDisruptionBudget")
OWN = f"system:serviceaccount:{NAMESPACE}:"
"""Users of the nodes and of the controller; the rest is what an administrator and the scheduler do."""
Json = dict[str, Any]


def measure(number: int) -> Json:
    """One cluster, one domain over so many agents. Raises RuntimeError with what the agents said."""
    with (
        tempfile.TemporaryDirectory(prefix="formation-", dir=SHARED_MEMORY) as work,
        Cluster.up(CLUSTER, audit=True) as cluster,
    ):
        _install(cluster, Path(work))
        pids = {"controller": _start_controller(cluster, Path(work))} | _control_plane(cluster)
        out = Path(work, "figures.json")
        argv = [sys.executable, "-m", "tests.bench.domain.agents", str(number), work, str(out)]
        argv.append(json.dumps(pids))
        process = cluster.popen(argv, name="agents", env={"PYTHONPATH": str(TOP)})
        try:
            ends_s = time.monotonic() + LIMIT_S
            while not out.exists():
                if not process.is_running or time.monotonic() > ends_s:
                    raise RuntimeError(f"agents: {process.output()[-3000:]}")
                time.sleep(0.2)
        finally:
            process.end()
        found: Json = json.loads(out.read_text())
        span = found.pop("since"), found.pop("until")
        asked = audit.requests(cluster.layout.audit_log, *span)
    own = [request for request in asked if request.user.startswith(OWN)]
    return found | {
        "requests": dict(Counter(_kind(request) for request in own).most_common()),
        "writesPerNode": sum(request.is_write for request in own) / number,
        "conflicts": audit.conflicts(own),
        "refused": sum(request.code >= 400 for request in own),
    }


def _kind(request: audit.Request) -> str:
    return f"{request.verb} {request.resource} {request.code}"


def _install(cluster: Cluster, work: Path) -> None:
    """The chart's objects less the Deployment, without the controllers that need kubelets and pods."""
    for path in sorted((helm.CHART / "crds").iterdir()):
        cluster.apply(path.read_text())
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
    cluster.apply(json.dumps(m.namespace(NAMESPACE)))
    cluster.apply(json.dumps(m.namespace(TEAM)))
    objects = [obj for obj in helm.render(work) if obj["kind"] not in LEFT_OUT]
    cluster.apply(yaml.safe_dump_all(objects))
    cluster.stop("controller-manager")


def _control_plane(cluster: Cluster) -> dict[str, int]:
    found = {name: processes.find(cluster.layout.pids, name) for name in ("apiserver", "etcd")}
    return {name: process.pid for name, process in found.items() if process is not None}


def _start_controller(cluster: Cluster, work: Path) -> int:
    """The shipped program with the rights that the chart gives it; its process id."""
    token = cluster.kubectl("create", "token", "nvdra-controller", "-n", NAMESPACE).strip()
    document = yaml.safe_load(cluster.layout.admin_kubeconfig.read_text())
    document["users"][0]["user"] = {"token": token}
    kubeconfig = work / "controller.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(document))
    argv = [sys.executable, "-m", "nvdra_cluster.cli", "--namespace", NAMESPACE,
            "--kubeconfig", str(kubeconfig)]  # fmt: skip
    return cluster.popen(argv, name="controller", env={"PYTHONPATH": str(TOP)}).pid


def growth(results: Sequence[Json]) -> float:
    """How many times longer the largest run took than the smallest, from first prepare to last release."""
    ordered = sorted(results, key=lambda one: int(one["agents"]))
    first, last = (one["firstPrepareToLastReleaseSeconds"] for one in (ordered[0], ordered[-1]))
    return float(last / first)


def text(results: Sequence[Json]) -> str:
    """A table for eyes: a column for each size, then requests."""
    rows = [
        ("agents", "agents", "d"),
        ("domain to its template", "templateSeconds", ".2f"),
        ("first prepare to last release", "firstPrepareToLastReleaseSeconds", ".2f"),
        ("last claim allocated to last release", "lastAllocationToLastReleaseSeconds", ".2f"),
        ("domain to Ready in its status", "domainReadySeconds", ".2f"),
        ("API writes a node, controller's too", "writesPerNode", ".1f"),
        ("conflicts", "conflicts", "d"),
        ("requests refused", "refused", "d"),
    ]
    lines = [
        f"{label:<38}" + "".join(f"{format(one[key], kind):>10}" for one in results)
        for label, key, kind in rows
    ]
    waits = [one["prepareSeconds"] for one in results]
    lines[4:4] = [
        f"{f'one prepare, {which}':<38}" + "".join(f"{one[which]:>10.2f}" for one in waits)
        for which in ("p50", "p99")
    ]
    lines += [
        f"{f'CPU time of {name}':<38}"
        + "".join(f"{one['cpuSeconds'][name]:>10.1f}" for one in results)
        for name in results[0]["cpuSeconds"]
    ]
    kinds = sorted({kind for one in results for kind in one["requests"]})
    lines += ["", "requests (verb, resource, code)"]
    lines += [
        f"  {kind:<36}" + "".join(f"{one['requests'].get(kind, 0):>10}" for one in results)
        for kind in kinds
    ]
    if len(results) > 1:
        lines += ["", f"time grows {growth(results):.2f} times (goal: {GROWTH_GOAL:g})"]
    return "\n".join(lines)


def main() -> int:
    """Measure and print; 1 with ``--check`` when the goal was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.domain.formation", description=__doc__
    )
    parser.add_argument("--agents", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("-o", "--output", default="text", choices=("text", "json"))
    parser.add_argument("--check", action="store_true", help="fail when the goal is missed")
    chosen = parser.parse_args()
    if reason := capability.why_not():
        print(f"this machine cannot run a cluster: {reason}", file=sys.stderr)
        return 1
    results = []
    for number in chosen.agents:
        print(f"-> {number} agents", file=sys.stderr, flush=True)
        results.append(measure(number))
    print(json.dumps(results, indent=1) if chosen.output == "json" else text(results))
    is_missed = len(results) > 1 and (
        growth(results) > GROWTH_GOAL or any(one["conflicts"] for one in results)
    )
    return 1 if chosen.check and is_missed else 0


if __name__ == "__main__":
    sys.exit(main())
