"""Pods of a ComputeDomain on two real nodes: the chart's controller, the shipped services, nvidia-imex simulated."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver.domain_bed import DomainBed
from tests.beds.cluster.driver.trays import PLUGIN, SUPERVISOR
from tests.lib.waits import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

FIRST, SECOND = "node-1", "node-2"
WORKERS = {"w0": FIRST, "w1": SECOND}
LINGER_S = 1
"""How long nvidia-imex runs after its last claim."""


@pytest.fixture(scope="module")
def bed(able: None) -> Iterator[DomainBed]:
    with DomainBed.up("domain-pods", 2, settings={"imexLingerSeconds": LINGER_S}) as made:
        yield made


@pytest.fixture
def place(bed: DomainBed, request: pytest.FixtureRequest) -> Iterator[str]:
    title = request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-")
    with bed.namespace(title) as made:
        yield made


def run_job(bed: DomainBed, place: str, name: str, **options: str) -> None:
    """A domain over both nodes and its two pods, applied together as users do."""
    workers = [m.worker(place, pod, name, node=node) for pod, node in WORKERS.items()]
    bed.apply(m.domain(place, name, nodes=2, **options), *workers)


def channels(bed: DomainBed, place: str, pod: str) -> list[str]:
    """Channels in a running container."""
    words = ("exec", "-n", place, pod, "--", "ls", "/dev/nvidia-caps-imex-channels")
    return bed.cluster.kubectl(*words).split()


def is_ready(bed: DomainBed, place: str, name: str) -> bool:
    found = bed.domain(place, name) or {}
    return bool(found.get("status", {}).get("status") == "Ready")


def test_domain_forms_pods_run_and_nothing_is_left(bed: DomainBed, place: str) -> None:
    started = time.monotonic()
    run_job(bed, place, "train")
    bed.wait_running(place, 2)
    print(f"both run {time.monotonic() - started:.1f} s after apply")
    wait_until("Ready", lambda: is_ready(bed, place, "train"), 60)
    status = (bed.domain(place, "train") or {})["status"]
    assert {node["name"]: node["status"] for node in status["nodes"]} == {
        FIRST: "Ready", SECOND: "Ready",
    }  # fmt: skip
    assert [channels(bed, place, pod) for pod in WORKERS] == [["channel0"], ["channel0"]]
    wait_until("peers", lambda: has_peer(bed, FIRST) and has_peer(bed, SECOND), 60)
    for kind in ("pods", "computedomain"):
        bed.cluster.kubectl("delete", kind, "-n", place, "--all", "--timeout=60s", timeout_s=90)
    bed.wait_domain_deleted(place, "train")
    bed.wait_clean()


def test_all_channels_mode_gives_all_channels(bed: DomainBed, place: str) -> None:
    run_job(bed, place, "train", mode="All")
    bed.wait_running(place, 2)
    assert len(channels(bed, place, "w1")) == 2048


def test_pod_waits_for_imex_and_its_event_says_so(bed: DomainBed, place: str) -> None:
    bed.trays[FIRST].configure_imex(stuck_state="INITIALIZING")
    try:
        run_job(bed, place, "train")
        scheduled = wait_until("w0 is scheduled", lambda: event(bed, place, "w0", "Scheduled"), 60)
        waiting = wait_until(
            "an event of w0", lambda: event(bed, place, "w0", "WaitingForDevice"), 60
        )
        assert "nvidia-imex" in waiting["message"], waiting["message"]
        took_s = seen_s(waiting) - seen_s(scheduled)
        print(f"event {took_s:.0f} s after scheduling: {waiting['message']}")
        assert bed.phases(place)["w0"] == "Pending"
    finally:
        bed.trays[FIRST].configure_imex(stuck_state=None)
    bed.wait_running(place, 2)
    assert event(bed, place, "w0", "FailedPrepareDynamicResources") is None


def test_second_domain_waits_for_nodes_of_the_first(bed: DomainBed, place: str) -> None:
    run_job(bed, place, "first")
    bed.wait_running(place, 2)
    other = m.worker(place, "other", "second", node=FIRST)
    del other["spec"]["affinity"]
    bed.apply(m.domain(place, "second"), other)
    wait_until("no device is free", lambda: event(bed, place, "other", "FailedScheduling"), 60)
    bed.cluster.kubectl("delete", "pod", "-n", place, *WORKERS, "--timeout=60s")
    wait_until("it runs", lambda: bed.phases(place) == {"other": "Running"}, 120)
    wait_until("Ready", lambda: is_ready(bed, place, "second"), 60)


def test_service_restarts_disturb_no_pod(bed: DomainBed, place: str) -> None:
    run_job(bed, place, "train")
    bed.wait_running(place, 2)
    tray = bed.trays[FIRST]
    before = tray.imex()["InvocationID"], ids(bed, place)
    for service in (SUPERVISOR, PLUGIN):
        tray.stop(service, signal.SIGKILL)
        tray.start(service)
    wait_until(
        "the plugin is back", lambda: tray.logged(PLUGIN).count("registered by the kubelet") > 1, 60
    )
    wait_until("Ready", lambda: is_ready(bed, place, "train"), 60)
    assert (tray.imex()["InvocationID"], ids(bed, place)) == before


def has_peer(bed: DomainBed, node: str) -> bool:
    """Whether the node's nvidia-imex is connected to its one peer."""
    (status,) = bed.fabric_node(node)["status"]["domains"]
    return bool(status["ready"] and status["peersConnected"] == status["peersKnown"] == 1)


def ids(bed: DomainBed, place: str) -> dict[str, str]:
    """The container that each pod has."""
    pods = bed.pods(place).items()
    return {name: pod["status"]["containerStatuses"][0]["containerID"] for name, pod in pods}


def event(bed: DomainBed, place: str, pod: str, reason: str) -> Any:
    """The first event of a pod with this reason."""
    events = bed.api.get(f"/api/v1/namespaces/{place}/events")["items"]
    own = [e for e in events if e["involvedObject"].get("name") == pod and e["reason"] == reason]
    return own[0] if own else None


def seen_s(found: Any) -> float:
    """Time of an event, in whole seconds."""
    stamp = found["metadata"]["creationTimestamp"]
    return time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))
