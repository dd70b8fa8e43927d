"""Pods end and the service restarts in any order: nothing hangs, nothing is left, no container is disturbed."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver.gpu_bed import DRIVER, Bed
from tests.beds.cluster.driver.pods import PREPARE_FAILED, Pods
from tests.lib.waits import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SWEEP_S = 4.0
BED = {"flags": ("--sweep-interval-seconds", f"{SWEEP_S:g}")}

KUBELET = {"syncFrequency": "5s"}

GPU = {"gpu": "gpu"}
SHARED = {"gpu": "shared"}

KUBELET_RETRY_S = 15.0
"""The kubelet retries a failed unprepare after 10 to 15 s."""


def test_restart_changes_no_slice_and_no_pod(bed: Bed, pods: Pods) -> None:
    pods.create(m.pod(pods.place, "pod", templates=GPU))
    bed.wait_running(pods.place, "pod")
    slices = [s["metadata"]["resourceVersion"] for s in bed.slices()]
    before = pods.identities()
    for kill in (False, True):
        mark = bed.only.log_size()
        bed.only.restart(kill=kill)
        bed.only.wait_registered(mark)
    assert pods.identities() == before
    assert pods.exec_gpus("pod") == bed.uuids(pods.place, "pod")
    assert [s["metadata"]["resourceVersion"] for s in bed.slices()] == slices


def test_stop_leaves_no_socket_and_crash_no_child(bed: Bed) -> None:
    bed.only.stop()
    assert bed.only.sockets() == []
    bed.only.start()
    bed.wait_for_devices()
    service = bed.only.service
    assert service is not None
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    service.signal(9)
    wait_until(
        "children of the killed service ended", lambda: not any(map(_is_alive, children)), 10
    )
    mark = bed.only.log_size()
    bed.only.restart(kill=True)
    bed.only.wait_registered(mark)
    assert len(bed.only.sockets()) == 2


def _is_alive(pid: str) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_pods_ended_during_downtime_are_removed_at_start(bed: Bed, pods: Pods) -> None:
    for name in ("one", "two"):
        pods.create(m.pod(pods.place, name, templates=GPU))
    bed.wait_running(pods.place, "one", "two")
    bed.only.stop()
    pods.delete("one")
    pods.delete("two")
    wait_until(
        "containers ended", lambda: all(_has_ended(pods, name) for name in ("one", "two")), 30
    )
    assert sorted(pods.names()) == ["one", "two"], "a pod must not go before its unprepare"
    started = time.monotonic()
    bed.only.start()
    for name in ("one", "two"):
        pods.wait_deleted(name, KUBELET_RETRY_S + 10)
    print(f"terminating pods deleted {time.monotonic() - started:.1f} s after the service's start")
    assert bed.only.leftovers() == []


def _has_ended(pods: Pods, name: str) -> bool:
    pod = pods.get(name)
    assert pod is not None
    return all("terminated" in c["state"] for c in pod["status"]["containerStatuses"])


def test_valid_claim_beside_invalid_one_is_cleaned_up(bed: Bed, pods: Pods) -> None:
    wrong = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "colour": "green"}
    bed.apply(m.template(pods.place, "bad", m.claim_spec(config=[wrong])))
    pods.create(m.pod(pods.place, "pod", templates={"good": "gpu", "bad": "bad"}))
    pods.wait_message("pod", PREPARE_FAILED, "colour")
    assert len(bed.only.files("/run/cdi/*")) == 1, "the good claim is prepared"
    pods.delete("pod")
    pods.wait_deleted("pod")
    wait_until("both claims deleted", lambda: not pods.claims(), 20)
    bed.wait_clean(5)


def test_force_deleted_claim_is_swept(bed: Bed, pods: Pods) -> None:
    pods.create(m.pod(pods.place, "pod", templates=GPU))
    bed.wait_running(pods.place, "pod")
    name = pods.claim_of("pod")["metadata"]["name"]
    claim = ("resourceclaim", "-n", pods.place, name)
    bed.cluster.kubectl("delete", *claim, "--wait=false")
    bed.cluster.kubectl("patch", *claim, "--type=merge", '--patch={"metadata":{"finalizers":null}}')
    wait_until("the claim swept", lambda: not bed.only.leftovers(), 3 * SWEEP_S + 10)
    pods.delete("pod")
    pods.wait_deleted("pod", KUBELET_RETRY_S + 10)


def test_force_deleted_pod_leaves_nothing(bed: Bed, pods: Pods) -> None:
    pods.create(m.pod(pods.place, "pod", templates=GPU))
    bed.wait_running(pods.place, "pod")
    pods.delete("pod", force=True)
    pods.create(m.pod(pods.place, "next", templates=GPU))
    bed.wait_running(pods.place, "next")
    wait_until("only the next pod's claim prepared", lambda: len(bed.only.leftovers()) == 2, 30)


def test_force_deleted_pods_gpu_is_held_by_one_claim(bed: Bed, pods: Pods) -> None:
    """Claim and allocation are deleted with the pod, while the container holds the GPU some seconds longer."""
    bed.apply(m.template(pods.place, "all", m.claim_spec(count=len(bed.only.sim.profile.gpus))))
    deaf = "nvidia-smi -L; trap '' TERM; while :; do sleep 1; done"
    pods.create(m.pod(pods.place, "holder", templates={"gpu": "all"}, command=deaf))
    bed.wait_running(pods.place, "holder")
    holder = pods.claim_of("holder")["metadata"]["uid"]
    pods.delete("holder", force=True)
    pods.create(m.pod(pods.place, "next", templates={"gpu": "all"}))
    prepared: set[tuple[str, ...]] = set()

    def runs() -> bool:
        prepared.add(tuple(bed.only.files("/run/cdi/*")))
        return bed.pod_phase(pods.place, "next") == "Running"

    wait_until("next runs", runs, 90, 0.01)
    assert all(len(files) <= 1 for files in prepared), prepared
    assert not any(holder in path for path in bed.only.leftovers())


def test_pods_end_after_records_are_lost(bed: Bed, pods: Pods) -> None:
    pods.create(m.pod(pods.place, "pod", templates=GPU))
    bed.wait_running(pods.place, "pod")
    before = pods.identities()
    bed.only.stop(kill=True)
    shutil.rmtree(bed.only.node.path(f"/var/lib/nvdra/{DRIVER}"))
    mark = bed.only.log_size()
    bed.only.start()
    bed.only.wait_registered(mark)
    assert pods.identities() == before
    pods.delete("pod")
    pods.wait_deleted("pod", KUBELET_RETRY_S + 10)
    wait_until("its CDI file swept", lambda: not bed.only.leftovers(), 3 * SWEEP_S + 10)


def test_pod_churn_leaves_nothing(bed: Bed, pods: Pods) -> None:
    for round_ in range(10):
        names = [f"pod-{round_}-{i}" for i in range(2)]
        shown = start_and_end(bed, pods, [m.pod(pods.place, n, templates=GPU) for n in names])
        assert len(set(shown)) == len(names), "no GPU for two claims"
        wait_until("claims deleted", lambda: not pods.claims(), 30)
        bed.wait_clean(10)


def test_shared_claim_stays_prepared_until_last_pod_ends(bed: Bed, pods: Pods) -> None:
    bed.apply(m.claim(pods.place, "shared", m.claim_spec()))
    for round_ in range(2):
        names = [f"pod-{round_}-{i}" for i in range(10)]
        shown = start_and_end(bed, pods, [m.pod(pods.place, n, claims=SHARED) for n in names])
        assert len(shown) == len(names) and len(set(shown)) == 1
        bed.wait_clean(10)


def start_and_end(bed: Bed, pods: Pods, manifests: list[m.Manifest]) -> list[str]:
    """Start pods and end them in another order; the claim stays prepared to the end. The GPUs shown."""
    for manifest in manifests:
        pods.create(manifest)
    names = [manifest["metadata"]["name"] for manifest in manifests]
    bed.wait_running(pods.place, *names, timeout_s=90)
    shown = [gpu for name in names for gpu in bed.uuids(pods.place, name)]
    *first, last = reversed(names)
    for name in first:
        pods.delete(name)
    for name in first:
        pods.wait_deleted(name, 60)
    (left,) = [claim["metadata"]["uid"] for claim in pods.claims() if is_reserved(claim, last)]
    files = wait_until("one claim prepared", lambda: of_one_claim(bed), 30)
    assert left in files[0]
    pods.delete(last)
    pods.wait_deleted(last, 60)
    return shown


def is_reserved(claim: dict[str, Any], pod: str) -> bool:
    """Whether a claim is in use by a pod."""
    return any(user["name"] == pod for user in claim["status"].get("reservedFor", ()))


def of_one_claim(bed: Bed) -> list[str]:
    """The only CDI file of a claim; nothing when there are more."""
    files = bed.only.files("/run/cdi/*")
    return files if len(files) == 1 else []
