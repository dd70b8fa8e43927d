"""Wrong configs, damaged records, a full disk: a clear event, nothing lost, no other pod affected."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver.gpu_bed import DRIVER, Bed
from tests.beds.cluster.driver.pods import PREPARE_FAILED, Pods
from tests.e2e.gpu.badconfigs import ACCEPTED, REFUSED
from tests.lib.waits import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

SWEEP_S = 3.0
BED = {
    "flags": (
        "--feature-gates", "TimeSlicingSettings=true,MPSSupport=true",
        "--sweep-interval-seconds", f"{SWEEP_S:g}",
    )
}  # fmt: skip
KUBELET = {"syncFrequency": "5s"}

STATE = "/var/lib/nvdra"
CLAIMS = f"{STATE}/{DRIVER}/claims"
QUARANTINE = f"{STATE}/{DRIVER}/quarantine"
CDI = "/run/cdi"


def test_invalid_config_is_named_in_its_pods_event_alone(bed: Bed, pods: Pods) -> None:
    bed.cluster.kubectl(
        "label", "namespace", pods.place, "resource.kubernetes.io/admin-access=true"
    )
    # With admin access a claim needs no GPU of its own, so all of them can be there at the same time.
    bed.apply(
        *(
            m.template(pods.place, name, m.claim_spec(admin=True, config=[parameters]))
            for name, (parameters, _) in REFUSED.items()
        ),
        *(m.pod(pods.place, name, templates={"gpu": name}) for name in REFUSED),
        m.pod(pods.place, "good", templates={"gpu": "gpu"}),
    )
    bed.wait_running(pods.place, "good")
    said = wait_all_refused(pods)
    wrong = {
        name: (words, said[name])
        for name, (_, words) in REFUSED.items()
        if not all(word in said[name] for word in (f"{name}-gpu", *words))
    }
    assert not wrong
    assert len(bed.only.leftovers()) == 2, "the good claim's record and CDI file, and no others"
    print(f"{len(said)} refusals, the longest of {max(map(len, said.values()))} characters")


def wait_all_refused(pods: Pods) -> dict[str, str]:
    """What the event says of each pod whose config is wrong."""

    def refusals() -> dict[str, str]:
        path = f"/api/v1/namespaces/{pods.place}/events"
        events = pods.bed.cluster.client.get(path)["items"]
        found = {
            e["involvedObject"]["name"]: e["message"]
            for e in events
            if e["reason"] == PREPARE_FAILED
        }
        return found if found.keys() >= REFUSED.keys() else {}

    found: dict[str, str] = wait_until("all wrong configs refused", refusals, 90, 0.5)
    return found


def test_unusual_valid_configs_are_applied(bed: Bed, pods: Pods) -> None:
    for name, parameters in ACCEPTED.items():
        bed.apply(m.template(pods.place, name, m.claim_spec(config=[parameters])))
        pods.create(m.pod(pods.place, name, templates={"gpu": name}))
    bed.wait_running(pods.place, *ACCEPTED)


def test_corrected_claim_starts_the_waiting_pod(bed: Bed, pods: Pods) -> None:
    wrong, right = REFUSED["interval"][0], ACCEPTED["long"]
    bed.apply(m.claim(pods.place, "shared", m.claim_spec(config=[wrong])))
    pods.create(m.pod(pods.place, "first", claims={"gpu": "shared"}))
    pods.wait_message("first", PREPARE_FAILED, '"Ever"')
    pods.delete("first")
    pods.wait_deleted("first")
    assert not bed.only.leftovers()
    bed.cluster.kubectl("delete", "resourceclaim", "-n", pods.place, "shared")
    pods.create(m.pod(pods.place, "second", claims={"gpu": "shared"}))
    bed.apply(m.claim(pods.place, "shared", m.claim_spec(config=[right])))
    bed.wait_running(pods.place, "second")


def test_damaged_records_leave_running_pods_alone(bed: Bed, pods: Pods) -> None:
    damages = {"cut": cut, "garbled": garbled, "future": future, "empty": empty}
    for name in (*damages, "whole"):
        pods.create(m.pod(pods.place, name, templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, *damages, "whole")
    gpus = {name: pods.exec_gpus(name) for name in pods.names()}
    before = pods.identities()
    uids = {name: pods.claim_of(name)["metadata"]["uid"] for name in damages}
    bed.only.stop()
    damaged = {}
    for name, damage in damages.items():
        path = bed.only.node.path(f"{CLAIMS}/{uids[name]}.json")
        path.write_bytes(damage(path.read_bytes()))
        damaged[uids[name]] = path.read_bytes()
    mark = bed.only.log_size()
    bed.only.start()
    bed.only.wait_registered(mark)
    log = bed.only.logged(mark)
    for uid, data in damaged.items():
        assert bed.only.node.path(f"{QUARANTINE}/{uid}.json").read_bytes() == data
        assert bed.only.node.path(f"{QUARANTINE}/{uid}.json.reason").read_text()
        assert f"{QUARANTINE}/{uid}.json" in log
    assert "written by a newer release" in log
    pods.create(m.pod(pods.place, "new", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "new")
    time.sleep(3 * SWEEP_S)
    assert {name: ids for name, ids in pods.identities().items() if name in before} == before
    for name in damages:
        bed.cluster.kubectl("exec", "-n", pods.place, name, "--", "sh", "-c", "kill 1", check=False)
    for name in damages:
        wait_until(f"{name}'s container again", functools.partial(has_restarted, pods, name), 60)
    assert {name: pods.exec_gpus(name) for name in gpus} == gpus
    end_all(pods)
    assert all(QUARANTINE in path for path in bed.only.leftovers())
    for path in bed.only.node.path(QUARANTINE).iterdir():
        path.unlink()


def end_all(pods: Pods) -> None:
    """Delete all pods and wait for their end."""
    names = pods.names()
    for name in names:
        pods.delete(name)
    for name in names:
        pods.wait_deleted(name)


def cut(data: bytes) -> bytes:
    """The second half is missing."""
    return data[: len(data) // 2]


def garbled(data: bytes) -> bytes:
    """Another byte in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x20]) + data[middle + 1 :]


def future(data: bytes) -> bytes:
    """From a release that writes another schema."""
    return json.dumps({**json.loads(data), "schema": 7}, separators=(",", ":")).encode() + b"\n"


def empty(data: bytes) -> bytes:
    """A file without content."""
    return b""


def has_restarted(pods: Pods, name: str) -> bool:
    """Whether the pod's container runs again."""
    (container,) = pods.identities()[name]
    return container.restarts > 0 and container.started_at != "not running"


@contextlib.contextmanager
def small_state(bed: Bed) -> Iterator[Path]:
    """The state directory is a file system of 256 KiB; gives its path. The service is restarted onto it and off it."""
    bed.only.stop()
    bed.only.node.run(["mount", "-t", "tmpfs", "-o", "size=256k", "small", STATE])
    restart(bed)
    try:
        yield bed.only.node.path(STATE)
    finally:
        bed.only.stop()
        bed.only.node.run(["umount", STATE])
        restart(bed)


def restart(bed: Bed) -> None:
    """Start the service again, and wait until it is registered."""
    mark = bed.only.log_size()
    bed.only.restart()
    bed.only.wait_registered(mark)


def fill(directory: Path) -> Path:
    """Leave no space in a file system; gives the file that takes it."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 1024)
    return filler


def test_full_disk_is_named_and_pods_start_once_freed(bed: Bed, pods: Pods) -> None:
    bed.apply(m.template(pods.place, "sliced", m.claim_spec(config=[ACCEPTED["long"]])))
    with small_state(bed) as state:
        for name in ("early", "goes"):
            pods.create(m.pod(pods.place, name, templates={"gpu": "sliced"}))
        bed.wait_running(pods.place, "early", "goes")
        before = {"early": pods.identities()["early"]}
        filler = fill(state)
        for name, template in (("plain", "gpu"), ("sliced", "sliced")):
            pods.create(m.pod(pods.place, name, templates={"gpu": template}))
        for name in ("plain", "sliced"):
            uid = pods.claim_of(name)["metadata"]["uid"]
            words = (f"{name}-gpu", f"{CLAIMS}/{uid}.json", "No space left", "free some space")
            print(pods.wait_message(name, PREPARE_FAILED, *words))
        pods.delete("goes")
        pods.wait_deleted("goes")
        assert len(bed.only.files(f"{CDI}/*")) == 1, "the early pod's"
        restart(bed)
        filler.unlink()
        bed.wait_running(pods.place, "plain", "sliced")
        assert {"early": pods.identities()["early"]} == before
        end_all(pods)


def test_read_only_cdi_directory_is_named(bed: Bed, pods: Pods) -> None:
    pods.create(m.pod(pods.place, "early", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "early")
    with read_only(bed, CDI):
        pods.create(m.pod(pods.place, "pod", templates={"gpu": "gpu"}))
        uid = pods.claim_of("pod")["metadata"]["uid"]
        words = ("pod-gpu", f"claim_{uid}.yaml", "Read-only file system", "mount it read-write")
        print(pods.wait_message("pod", PREPARE_FAILED, *words))
        restart(bed)
        mark = bed.only.log_size()
        pods.delete("early")
        # The kubelet makes no event of what keeps a pod from ending.
        refusal = "unprepare failed.*Read-only file system"
        wait_until("the reason", lambda: re.search(refusal, bed.only.logged(mark)), 30)
        assert "early" in pods.names()
    bed.wait_running(pods.place, "pod")
    pods.wait_deleted("early")


@contextlib.contextmanager
def read_only(bed: Bed, path: str) -> Iterator[None]:
    """While it is entered, nothing can be written below a directory of the node."""
    bed.only.node.run(["mount", "--bind", path, path])
    bed.only.node.run(["mount", "-o", "remount,bind,ro", path])
    try:
        yield
    finally:
        bed.only.node.run(["umount", path])
