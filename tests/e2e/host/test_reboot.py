"""Power loss, and kills of the service at any moment: the same pods run again with their GPUs."""

from __future__ import annotations

import json
import random
import time

import pytest

from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver.gpu_bed import DRIVER, Bed, GpuNode
from tests.beds.cluster.driver.pods import Identity, Pods, ignoring_outages
from tests.lib.waits import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

BED = {"flags": ("--sweep-interval-seconds", "4")}

KUBELET = {"syncFrequency": "5s"}

BACK_S = 60.0
"""Time from the start of the service until the pods run again."""


def test_pods_run_with_their_gpus_after_reboot(bed: Bed, pods: Pods) -> None:
    bed.apply(m.claim(pods.place, "shared", m.claim_spec(count=2)))
    pods.create(m.pod(pods.place, "alone", templates={"gpu": "gpu"}))
    for name in ("left", "right"):
        pods.create(m.pod(pods.place, name, claims={"gpu": "shared"}))
    bed.wait_running(pods.place, "alone", "left", "right")
    gpus = {name: pods.exec_gpus(name) for name in pods.names()}
    old, old_boot = pods.identities(), boot_ids(bed.only)

    reboot(bed)

    started = time.monotonic()
    bed.only.start()
    wait_until(
        "all pods run again",
        ignoring_outages(lambda: all(_runs_anew(pods, name, old) for name in gpus)),
        BACK_S,
    )
    print(f"pods run again {time.monotonic() - started:.1f} s after the service's start")
    assert {name: pods.exec_gpus(name) for name in gpus} == gpus
    assert boot_ids(bed.only).isdisjoint(old_boot), "a record of the earlier boot was served"
    bed.wait_for_devices()


def test_pods_deleted_while_node_is_off_leave_nothing(bed: Bed, pods: Pods) -> None:
    pods.create(m.pod(pods.place, "pod", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "pod")
    bed.only.node.power_off()
    bed.only.stop(kill=True)
    pods.delete("pod", force=True)
    wait_until("the claim deleted", lambda: not pods.claims(), 30)
    bed.only.sim.reboot()
    bed.only.node.power_on()
    bed.only.start()
    bed.wait_clean()


def test_service_killed_during_prepare_loses_no_pod(bed: Bed, pods: Pods) -> None:
    chance = random.Random(20261121)
    for round_ in range(3):
        names = [f"pod-{round_}-{i}" for i in range(8)]
        for name in names:
            pods.create(m.pod(pods.place, name, templates={"gpu": "gpu"}))
        wait_until("the first of them prepared", lambda: bed.only.files("/run/cdi/*"), 30, 0.005)
        time.sleep(chance.uniform(0, 0.3))
        bed.only.stop(kill=True)
        prepared = len(bed.only.files("/run/cdi/*"))
        print(f"killed with {prepared} of {len(names)} CDI files written")
        bed.only.start()
        bed.wait_running(pods.place, *names, timeout_s=BACK_S)
        shown = [gpu for name in names for gpu in bed.uuids(pods.place, name)]
        assert len(set(shown)) == len(shown) == len(names), "each pod has a GPU of its own"
        for name in names:
            pods.delete(name)
        for name in names:
            pods.wait_deleted(name, 60)
        bed.wait_clean(5)


def reboot(bed: Bed) -> None:
    """Power off and on; the service is left for the test to start."""
    bed.only.node.power_off()
    bed.only.stop(kill=True)
    bed.only.sim.reboot()
    bed.only.node.power_on()


def boot_ids(gpu_node: GpuNode) -> set[str]:
    """In which boots the claims that have a record were prepared."""
    state = gpu_node.node.path(f"/var/lib/nvdra/{DRIVER}/claims")
    return {json.loads(path.read_text())["record"]["bootId"] for path in state.iterdir()}


def _runs_anew(pods: Pods, name: str, old: dict[str, list[Identity]]) -> bool:
    (was,), (now,) = old[name], pods.identities()[name]
    return now.id != was.id and now.started_at != "not running"
