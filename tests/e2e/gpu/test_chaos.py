"""Kubelet, service, API server and containerd restart in every order: pods keep running, slices return, nothing is left.

``NVDRA_CHAOS_ROUNDS`` says how many restarts at random (a full run: 100), ``NVDRA_CHAOS_SEED`` repeats a run.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver import rpc
from tests.beds.cluster.driver.gpu_bed import DRIVER, Bed
from tests.beds.cluster.driver.pods import Identity, Pods, ignoring_outages
from tests.e2e.gpu.chaos import Chaos, ShortLivedPods, plan, table
from tests.lib.waits import wait_until

ROUNDS = int(os.environ.get("NVDRA_CHAOS_ROUNDS", "14"))

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300 + 30 * ROUNDS)]

SLICES_BACK_S = 15.0
"""Documented limit; times four on a machine that is busy with other tests."""

BED = {"flags": ("--sweep-interval-seconds", "20")}
KUBELET = {"syncFrequency": "5s"}

PAUSE_S = 5.0
"""Between two restarts, so that most pods live through some before they go."""

SETTLED_S = 120.0
"""The kubelet lists claims of pods that were deleted during its downtime once a minute."""


def test_random_restarts_disturb_no_pod_and_leave_nothing(bed: Bed, pods: Pods) -> None:
    seed = int(os.environ.get("NVDRA_CHAOS_SEED", random.SystemRandom().randrange(10**6)))
    print(f"\nNVDRA_CHAOS_ROUNDS={ROUNDS} NVDRA_CHAOS_SEED={seed}")
    chance = random.Random(seed)
    steady = start_steady_pods(bed, pods)
    gpus = {name: pods.exec_gpus(name) for name in steady}
    short_lived = ShortLivedPods(pods, len(bed.devices(bed.only.name)) - 4, chance)
    chaos = Chaos(bed, short_lived)
    times = []
    for number, fault in enumerate(plan(ROUNDS, chance), 1):
        seconds = chaos.inject(fault)
        times.append((fault, seconds))
        wait_undisturbed(pods, steady)
        running = short_lived.wait_some_running(PAUSE_S)
        print(
            f"{number:3} {fault}: slices back after {seconds:.2f} s; {running} short-lived pods run"
        )
    print(table(times))
    started = time.monotonic()

    bed.wait_running(pods.place, *short_lived.here, timeout_s=SETTLED_S)
    print(
        f"{len(short_lived.here)} pods of the last rounds run after {time.monotonic() - started:.1f} s"
    )
    assert {name: pods.exec_gpus(name) for name in steady} == gpus
    shown = [
        gpu for name in (*short_lived.here, "one", "two", "left") for gpu in pods.exec_gpus(name)
    ]
    assert len(set(shown)) == len(shown), "a GPU of one claim in a container of another"
    assert max(seconds for _, seconds in times) < 4 * SLICES_BACK_S
    assert_nothing_is_left(bed, pods)


def start_steady_pods(bed: Bed, pods: Pods) -> dict[str, list[Identity]]:
    """Start four pods that must survive; two of them share a claim of two GPUs."""
    bed.apply(m.claim(pods.place, "shared", m.claim_spec(count=2)))
    for name in ("one", "two"):
        pods.create(m.pod(pods.place, name, templates={"gpu": "gpu"}))
    for name in ("left", "right"):
        pods.create(m.pod(pods.place, name, claims={"gpu": "shared"}))
    bed.wait_running(pods.place, "one", "two", "left", "right")
    return pods.identities()


def wait_undisturbed(pods: Pods, steady: dict[str, list[Identity]]) -> None:
    """All containers are the same ones and run; a kubelet that just started may not have reported yet."""

    def disturbed() -> dict[str, list[Identity]]:
        now = pods.identities()
        return {name: now.get(name, []) for name, was in steady.items() if now.get(name) != was}

    wait_until("pods as before", ignoring_outages(lambda: not disturbed()), 30)


def assert_nothing_is_left(bed: Bed, pods: Pods) -> None:
    """Delete all pods: no record, file or claim is left, and without the service no socket."""
    started = time.monotonic()
    bed.cluster.kubectl("delete", "pods", "-n", pods.place, "--all", "--wait=false")
    wait_until("all pods deleted", lambda: not pods.names(), SETTLED_S)
    bed.cluster.kubectl("delete", "resourceclaims", "-n", pods.place, "--all")
    bed.wait_clean(SETTLED_S)
    assert pods.claims() == []
    print(f"all pods deleted, nothing left after {time.monotonic() - started:.1f} s")
    assert len(bed.only.sockets()) == 2
    bed.only.stop()
    assert bed.only.sockets() == []
    assert bed.only.files(f"/var/lib/nvdra/{DRIVER}/**/.*") == []
    mark = bed.only.log_size()
    bed.only.start()
    bed.only.wait_registered(mark)


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_restarted_kubelet_admits_pods(bed: Bed, pods: Pods, kill: bool) -> None:
    bed.apply(m.claim(pods.place, "shared", m.claim_spec()))
    pods.create(m.pod(pods.place, "first", claims={"gpu": "shared"}))
    bed.wait_running(pods.place, "first")
    before = pods.identities()
    mark = bed.only.log_size()
    bed.only.node.restart("kubelet", kill=kill)
    pods.create(m.pod(pods.place, "second", claims={"gpu": "shared"}))
    pods.create(m.pod(pods.place, "third", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "second", "third")
    bed.only.wait_registered(mark)
    assert pods.identities()["first"] == before["first"]
    assert pods.exec_gpus("second") == pods.exec_gpus("first") != pods.exec_gpus("third")


def test_claims_lost_by_kubelet_checkpoint_loss_are_swept(bed: Bed, pods: Pods) -> None:
    """A kubelet without its checkpoint never unprepares those claims."""
    pods.create(m.pod(pods.place, "pod", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "pod")
    before = pods.identities()
    mark = bed.only.log_size()
    bed.only.node.stop("kubelet", kill=True)
    bed.only.node.path("/var/lib/kubelet/dra_manager_state").unlink()
    bed.only.node.start("kubelet")
    bed.only.wait_registered(mark)
    wait_undisturbed(pods, before)
    pods.delete("pod")
    pods.wait_deleted("pod", SETTLED_S)
    bed.wait_clean(SETTLED_S)


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_service_restart_while_kubelet_is_down(bed: Bed, pods: Pods, kill: bool) -> None:
    pods.create(m.pod(pods.place, "stays", templates={"gpu": "gpu"}))
    pods.create(m.pod(pods.place, "goes", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "stays", "goes")
    before = {"stays": pods.identities()["stays"]}
    bed.only.node.stop("kubelet", kill=kill)
    pods.delete("goes")
    pods.create(m.pod(pods.place, "comes", templates={"gpu": "gpu"}))
    bed.only.restart(kill=kill)
    mark = bed.only.log_size()
    bed.only.node.start("kubelet")
    bed.only.wait_registered(mark)
    bed.wait_running(pods.place, "comes")
    pods.wait_deleted("goes", SETTLED_S)
    wait_undisturbed(pods, before)
    assert pods.exec_gpus("stays") != pods.exec_gpus("comes")


def test_api_outage_lets_pods_end_and_prepared_claims_answer(bed: Bed, pods: Pods) -> None:
    """A kubelet reads a claim from the API before it prepares it, so that call comes from the test."""
    for name in ("stays", "goes"):
        pods.create(m.pod(pods.place, name, templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "stays", "goes")
    gpus = pods.exec_gpus("stays")
    claims = {name: rpc.ref(pods.claim_of(name)) for name in ("stays", "goes")}
    with rpc.plugin(bed.only) as plugin:
        (prepared,) = plugin.prepare(claims["stays"]).devices.values()
    (identity,) = pods.identities()["stays"]
    bed.only.stop(kill=True)  # else the claim would be unprepared before the API server is down
    pods.delete("goes")
    wait_until("the container of goes ended", lambda: has_ended(pods, "goes"), 30)
    bed.cluster.stop("apiserver", kill=True)
    try:
        bed.only.start()
        wait_until("the claim of goes unprepared", lambda: not files_of(bed, claims["goes"]), 60)
        with rpc.plugin(bed.only) as plugin:
            assert plugin.prepare(claims["stays"]).devices == {claims["stays"][2]: prepared}
        end_container(bed, identity)
    finally:
        bed.cluster.start("apiserver")
    wait_until("stays runs again", ignoring_outages(lambda: runs_again(pods, identity)), 60)
    assert pods.exec_gpus("stays") == gpus
    pods.wait_deleted("goes")


def test_kubelet_and_service_restart_without_api_server(bed: Bed, pods: Pods) -> None:
    pods.create(m.pod(pods.place, "pod", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "pod")
    before = pods.identities()
    bed.cluster.stop("apiserver", kill=True)
    try:
        mark = bed.only.log_size()
        bed.only.node.stop("kubelet", kill=True)
        bed.only.restart(kill=True)
        bed.only.node.start("kubelet")
        bed.only.wait_registered(mark)
    finally:
        bed.cluster.start("apiserver")
    bed.wait_for_devices()
    wait_undisturbed(pods, before)
    pods.create(m.pod(pods.place, "next", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "next")


def has_ended(pods: Pods, name: str) -> bool:
    """Whether all containers of a pod have terminated."""
    pod = pods.get(name)
    assert pod is not None
    return all("terminated" in c["state"] for c in pod["status"]["containerStatuses"])


def files_of(bed: Bed, claim: tuple[str, str, str]) -> list[str]:
    """What is on disk for a claim."""
    return [path for path in bed.only.leftovers() if claim[2] in path]


def end_container(bed: Bed, identity: Identity) -> None:
    """Kill a container's program, as a crash does."""
    bed.only.node.ctr("tasks", "kill", "-s", "SIGKILL", identity.id.rpartition("/")[2])


def runs_again(pods: Pods, was: Identity) -> bool:
    """Whether the only container of ``stays`` was started again and runs."""
    (now,) = pods.identities()["stays"]
    return now.restarts == was.restarts + 1 and now.started_at != "not running"
