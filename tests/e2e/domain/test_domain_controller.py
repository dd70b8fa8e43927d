"""The controller as the chart deploys it: from its image, in a namespace that enforces `restricted`, two of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.beds.cluster.driver import chart
from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver.domain_bed import DomainBed
from tests.beds.cluster.machine import cgroups
from tests.lib.waits import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{chart.NAMESPACE}/leases/nvdra-controller"
LEASE_S = 15
"""leaseDuration of the chart."""


@pytest.fixture(scope="module")
def bed(able: None) -> Iterator[DomainBed]:
    with DomainBed.up("domain-controller", 2) as made:
        yield made


@pytest.fixture(scope="module")
def place(bed: DomainBed) -> Iterator[str]:
    with bed.namespace("team") as made:
        yield made


def replicas(bed: DomainBed) -> dict[str, Any]:
    """The controller's pods that are ready."""
    return {
        name: pod
        for name, pod in bed.pods(chart.NAMESPACE).items()
        if any(
            c["type"] == "Ready" and c["status"] == "True"
            for c in pod["status"].get("conditions", ())
        )
        and "deletionTimestamp" not in pod["metadata"]
    }


def leader(bed: DomainBed) -> str:
    """The leading pod: the Lease's holder is its name with a random suffix."""
    holder = bed.api.get(LEASE)["spec"].get("holderIdentity") or ""
    return str(holder).rpartition("-")[0]


def kill(bed: DomainBed, name: str) -> None:
    """Kill a replica with SIGKILL."""
    pod = bed.pods(chart.NAMESPACE)[name]
    cgroup = bed.cluster.layout.node_cgroup(pod["spec"]["nodeName"])
    for pid in cgroups.processes(cgroup):
        if b"/usr/bin/nvdra-controller" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


def serves(bed: DomainBed, place: str, name: str, timeout_s: float = 90) -> float:
    """Create a domain and wait until it has its template; seconds that it took. Deletes it again."""
    started = time.monotonic()
    bed.apply(m.domain(place, name))
    templates = f"/apis/resource.k8s.io/v1/namespaces/{place}/resourceclaimtemplates"
    wait_until(
        f"template of {name}", lambda: bed.api.says_ok(f"{templates}/{name}-channel"), timeout_s
    )
    took_s = time.monotonic() - started
    bed.cluster.kubectl("delete", "computedomain", "-n", place, name, "--timeout=60s")
    return took_s


def test_replicas_run_on_two_hosts_with_restricted_security(bed: DomainBed) -> None:
    labels = bed.api.get(f"/api/v1/namespaces/{chart.NAMESPACE}")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pods = replicas(bed)
    assert {pod["spec"]["nodeName"] for pod in pods.values()} == set(bed.trays)
    for pod in pods.values():
        (status,) = pod["status"]["containerStatuses"]
        assert status["restartCount"] == 0
        assert status["image"] == "ghcr.io/nvdra/nvdra-controller:v0.1.0"


def test_controller_is_unprivileged_and_root_is_read_only(bed: DomainBed) -> None:
    program = "import os\nprint(os.getuid(), os.getgid())\nopen('/tmp/x', 'w')"
    said = bed.cluster.kubectl(
        "exec", "-n", chart.NAMESPACE, next(iter(replicas(bed))), "--", "python3", "-IBc", program,
        check=False,
    )  # fmt: skip
    assert said.startswith("65532 65532\n")
    assert "Read-only file system" in said


def test_controller_requests_nothing_forbidden(bed: DomainBed, place: str) -> None:
    print(f"a domain has its template after {serves(bed, place, 'first'):.2f} s")
    for name in replicas(bed):
        log = bed.cluster.kubectl("logs", "-n", chart.NAMESPACE, name)
        assert "forbidden" not in log.lower(), log


def test_terminated_leader_hands_over_at_once(bed: DomainBed, place: str) -> None:
    slots, first = bed.slots(), leader(bed)
    bed.cluster.kubectl("delete", "pod", "-n", chart.NAMESPACE, first, "--wait=false")
    started = time.monotonic()
    wait_until("another leads", lambda: leader(bed) not in ("", first), 60)
    took_s = time.monotonic() - started
    print(f"another leads after {took_s:.1f} s")
    serves(bed, place, "handed-over")
    assert bed.slots() == slots
    wait_until("two are ready again", lambda: len(replicas(bed)) == 2, 120)


def test_killed_leader_is_replaced_after_its_lease(bed: DomainBed, place: str) -> None:
    slots, first = bed.slots(), leader(bed)
    transitions = bed.api.get(LEASE)["spec"]["leaseTransitions"]
    kill(bed, first)
    took_s = serves(bed, place, "after-death")
    print(f"a domain made as the leader died has its template after {took_s:.1f} s")
    assert bed.api.get(LEASE)["spec"]["leaseTransitions"] == transitions + 1
    assert leader(bed) in bed.pods(chart.NAMESPACE)
    assert bed.slots() == slots, "who comes next takes over what was given out"
    wait_until("the dead one is back", lambda: len(replicas(bed)) == 2, 120)
