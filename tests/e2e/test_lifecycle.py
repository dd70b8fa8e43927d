"""Pods end and the service comes and goes in any order: nothing hangs, nothing is left, nobody notices a restart."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.e2e import manifests as m
from tests.e2e.bed import Bed, wait_for
from tests.e2e.users import PREPARE_FAILED, Pods

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

SWEEP_S = 4.0
BED = {"flags": ("--sweep-interval-seconds", f"{SWEEP_S:g}")}

KUBELET = {"syncFrequency": "5s"}

KUBELET_RETRY_S = 15.0
"""A kubelet tries a failed unprepare again after 10 to 15 s, whatever the plugin does."""


def test_a_restarted_service_leaves_slices_and_pods_as_they_are(bed: Bed, pods: Pods) -> None:
    pods.create(m.pod(pods.place, "pod", templates={"gpu": "gpu"}))
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


def test_an_orderly_stop_leaves_no_socket_and_a_crash_no_child(bed: Bed) -> None:
    bed.only.stop()
    assert bed.only.sockets() == []
    bed.only.start()
    bed.wait_for_devices()
    service = bed.only.service
    assert service is not None
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    service.signal(9)
    wait_for("children of the killed service gone", lambda: not any(map(_is_alive, children)), 10)
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


def test_pods_that_end_while_the_service_is_down_go_when_it_starts(bed: Bed, pods: Pods) -> None:
    for name in ("one", "two"):
        pods.create(m.pod(pods.place, name, templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "one", "two")
    bed.only.stop()
    pods.delete("one")
    pods.delete("two")
    wait_for("containers ended", lambda: all(_has_ended(pods, name) for name in ("one", "two")), 30)
    assert sorted(pods.names()) == ["one", "two"], "a pod must not go before its unprepare"
    started = time.monotonic()
    bed.only.start()
    for name in ("one", "two"):
        pods.wait_gone(name, KUBELET_RETRY_S + 10)
    print(f"terminating pods gone {time.monotonic() - started:.1f} s after the service's start")
    assert bed.only.leftovers() == []


def _has_ended(pods: Pods, name: str) -> bool:
    pod = pods.get(name)
    assert pod is not None
    return all("terminated" in c["state"] for c in pod["status"]["containerStatuses"])


def test_the_good_claim_of_a_pod_with_a_bad_one_is_cleaned_up(bed: Bed, pods: Pods) -> None:
    wrong = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "colour": "green"}
    bed.apply(m.template(pods.place, "bad", m.claim_spec(config=[wrong])))
    pods.create(m.pod(pods.place, "pod", templates={"good": "gpu", "bad": "bad"}))
    pods.wait_message("pod", PREPARE_FAILED, "colour")
    assert len(bed.only.files("/run/cdi/*")) == 1, "the good claim is prepared"
    pods.delete("pod")
    pods.wait_gone("pod")
    wait_for("both claims gone", lambda: not pods.claims(), 20)
    bed.wait_clean(5)


def test_a_claim_deleted_by_force_while_prepared_is_swept(bed: Bed, pods: Pods) -> None:
    pods.create(m.pod(pods.place, "pod", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "pod")
    name = pods.claim_of("pod")["metadata"]["name"]
    claim = ("resourceclaim", "-n", pods.place, name)
    bed.cluster.kubectl("delete", *claim, "--wait=false")
    bed.cluster.kubectl("patch", *claim, "--type=merge", '--patch={"metadata":{"finalizers":null}}')
    wait_for("the claim swept", lambda: not bed.only.leftovers(), 3 * SWEEP_S + 10)
    pods.delete("pod")
    pods.wait_gone("pod", KUBELET_RETRY_S + 10)


def test_a_pod_deleted_by_force_leaves_nothing(bed: Bed, pods: Pods) -> None:
    pods.create(m.pod(pods.place, "pod", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "pod")
    pods.delete("pod", force=True)
    pods.create(m.pod(pods.place, "next", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "next")
    wait_for("only the next pod's claim prepared", lambda: len(bed.only.leftovers()) == 2, 30)
