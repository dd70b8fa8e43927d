"""The NVIDIA driver is loaded, unloaded and replaced: no restart, no disturbed pod, no stale files."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver import rpc
from tests.beds.cluster.driver.gpu_bed import Bed
from tests.beds.cluster.driver.pods import PREPARE_FAILED, Pods
from tests.lib.waits import wait_until
from tests.sim.fs import tree

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

BED = {
    "flags": (
        "--driver-poll-seconds", "0.5",
        "--rescan-interval-seconds", "5",
        "--feature-gates", "TimeSlicingSettings=true",
    )
}  # fmt: skip
KUBELET = {"syncFrequency": "5s"}

OLD, NEW = "580.65.06", "590.44.01"
FILES_BELIEVED_S = 1.5
"""The service caches the presence of driver files for 1 s."""

LIBRARIES = Path(tree.LIBRARY_DIRECTORY)

TIME_SLICED = {
    "apiVersion": "resource.nvidia.com/v1beta1",
    "kind": "GpuConfig",
    "sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}},
}


@pytest.fixture(autouse=True)
def old_driver(bed: Bed) -> Iterator[None]:
    """Every test ends with the driver that the first one began with."""
    yield
    sim = bed.only.sim
    if sim.profile.driver_version != OLD:
        sim.unload_driver()
        sim.load_driver(OLD)
    bed.wait_for_devices()
    wait_until("old driver in the slices", lambda: published_version(bed) == "580.65.6", 30)


def published_version(bed: Bed) -> str:
    """The driver version of the published GPUs."""
    devices = bed.devices(bed.only.name).values()
    found = {str(d["attributes"]["driverVersion"]["version"]) for d in devices}
    return ", ".join(sorted(found))


def pid(bed: Bed) -> int:
    """Process id of the service; the same one means that it was not restarted."""
    assert bed.only.service is not None and bed.only.service.is_running
    return bed.only.service.pid


def cdi(bed: Bed, pods: Pods, name: str) -> str:
    """The CDI file of a pod's claim."""
    uid = pods.claim_of(name)["metadata"]["uid"]
    return bed.only.node.path(f"/run/cdi/k8s.gpu.nvidia.com-claim_{uid}.yaml").read_text()


def versions(text: str) -> set[str]:
    """Driver versions in names of libraries."""
    return set(re.findall(r"\.so\.(\d{3}\.\d+\.\d+)", text))


def seen_inside(pods: Pods, name: str) -> set[str]:
    """Driver versions of the libraries in a container."""
    return versions(
        pods.bed.cluster.kubectl(
            "exec", "-n", pods.place, name, "--", "ls", f"/{tree.LIBRARY_DIRECTORY}"
        )
    )


def test_pods_end_without_driver_and_start_with_it(bed: Bed, pods: Pods) -> None:
    bed.apply(m.template(pods.place, "sliced", m.claim_spec(config=[TIME_SLICED])))
    pods.create(m.pod(pods.place, "plain", templates={"gpu": "gpu"}))
    pods.create(m.pod(pods.place, "sliced", templates={"gpu": "sliced"}))
    bed.wait_running(pods.place, "plain", "sliced")
    bed.only.stop()
    bed.only.sim.unload_driver(uninstall=True)
    mark = bed.only.log_size()
    bed.only.start()
    bed.only.wait_registered(mark)
    wait_until("no GPU published", lambda: not bed.devices(bed.only.name), 30)
    for name in ("plain", "sliced"):
        pods.delete(name)
    for name in ("plain", "sliced"):
        pods.wait_deleted(name)
    assert not bed.only.leftovers()
    pods.create(m.pod(pods.place, "early", templates={"gpu": "gpu"}))
    pods.wait_message("early", "FailedScheduling")
    service, started = pid(bed), time.monotonic()
    bed.only.sim.load_driver()
    bed.wait_for_devices()
    print(f"GPUs published {time.monotonic() - started:.1f} s after the driver was loaded")
    bed.wait_running(pods.place, "early")
    assert pid(bed) == service


def test_new_driver_is_for_new_pods_only(bed: Bed, pods: Pods) -> None:
    pods.create(m.pod(pods.place, "old", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "old")
    assert versions(cdi(bed, pods, "old")) == seen_inside(pods, "old") == {OLD}
    before, service = pods.identities(), pid(bed)
    bed.only.sim.unload_driver()
    wait_until("no GPU published", lambda: not bed.devices(bed.only.name), 30)
    started = time.monotonic()
    bed.only.sim.load_driver(NEW)
    wait_until("new driver in the slices", lambda: published_version(bed) == "590.44.1", 30)
    print(f"the new driver is in the slices after {time.monotonic() - started:.1f} s")
    pods.create(m.pod(pods.place, "new", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "new")
    assert versions(cdi(bed, pods, "new")) == seen_inside(pods, "new") == {NEW}
    assert len(pods.exec_gpus("new")) == 1
    assert seen_inside(pods, "old") == {OLD}
    assert {name: ids for name, ids in pods.identities().items() if name == "old"} == before
    assert pid(bed) == service


def test_container_restarted_after_driver_change_gets_new_one(bed: Bed, pods: Pods) -> None:
    pods.create(m.pod(pods.place, "pod", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "pod")
    gpus = pods.exec_gpus("pod")
    bed.only.sim.unload_driver()
    bed.only.sim.load_driver(NEW)
    # Its second module is loaded later, as on most hosts.
    with moved_away(bed.only.sim.path / "dev/nvidia-uvm"):
        wait_until("no GPU published", lambda: not bed.devices(bed.only.name), 30)
    wait_until("new driver in the slices", lambda: published_version(bed) == "590.44.1", 30)
    wait_until("new driver in the CDI file", lambda: versions(cdi(bed, pods, "pod")) == {NEW}, 30)
    bed.cluster.kubectl("exec", "-n", pods.place, "pod", "--", "sh", "-c", "kill 1", check=False)
    wait_until("the container restarted", lambda: has_restarted(pods, "pod"), 60)
    assert seen_inside(pods, "pod") == {NEW}
    assert pods.exec_gpus("pod") == gpus


def has_restarted(pods: Pods, name: str) -> bool:
    """Whether the pod's container runs again."""
    (container,) = pods.identities()[name]
    return container.restarts > 0 and container.started_at != "not running"


@contextlib.contextmanager
def moved_away(path: Path) -> Iterator[None]:
    """Rename a file while entered."""
    aside = path.with_name("aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


def test_libraries_deleted_under_a_loaded_driver_are_named(bed: Bed, pods: Pods) -> None:
    library = bed.only.sim.path / LIBRARIES / f"libcuda.so.{OLD}"
    pods.create(m.pod(pods.place, "pod", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "pod")
    claim = rpc.ref(pods.claim_of("pod"))
    with moved_away(library), rpc.plugin(bed.only) as plugin:
        time.sleep(FILES_BELIEVED_S)
        said = plugin.prepare(claim).errors[claim[2]]
        assert re.search(f"{library.name}.*reload the driver", said)
    bed.wait_for_devices()


@pytest.mark.parametrize("missing", ["library", "hook"])
def test_node_without_toolkit_publishes_no_devices(bed: Bed, pods: Pods, missing: str) -> None:
    path = bed.only.sim.path / LIBRARIES / f"libcuda.so.{OLD}"
    if missing == "hook":
        path = use_own_hook(bed)
    pods.create(m.pod(pods.place, "before", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "before")
    before = pods.identities()
    with moved_away(path):
        wait_until("no GPU published", lambda: not bed.devices(bed.only.name), 30)
        pods.create(m.pod(pods.place, "pod", templates={"gpu": "gpu"}))
        pods.wait_message("pod", "FailedScheduling")
        wait_until("event", lambda: path.name in bed.events("default"), 30)
        assert "PrepareBlocked" in bed.events("default")
        assert path.name in health(bed)
    bed.wait_running(pods.place, "pod")
    assert health(bed).startswith("ok")
    wait_until("event", lambda: "PrepareRestored" in bed.events("default"), 30)
    assert {name: ids for name, ids in pods.identities().items() if name == "before"} == before


def use_own_hook(bed: Bed) -> Path:
    """Restart the service with a hook that no other test uses."""
    argv, path = bed.only.argv(), bed.only.sim.path / "usr/bin/nvidia-cdi-hook"
    shutil.copy2(argv[argv.index("--nvidia-cdi-hook-path") + 1], path)
    mark = bed.only.log_size()
    bed.only.flags = (*BED["flags"], "--nvidia-cdi-hook-path", str(path))
    bed.only.restart()
    bed.only.wait_registered(mark)
    bed.wait_for_devices()
    return path


def health(bed: Bed) -> str:
    """Answer of the health endpoint."""
    script = (
        "import http.client as h; c = h.HTTPConnection('127.0.0.1', 9899, timeout=10); "
        "c.request('GET', '/healthz'); print(c.getresponse().read().decode())"
    )
    return bed.only.node.run([sys.executable, "-c", script]).stdout


def test_prepare_waits_for_late_device_node(bed: Bed, pods: Pods) -> None:
    gpu = bed.only.sim.profile.gpus[3]
    cel = f"device.attributes['gpu.nvidia.com'].uuid == '{gpu.uuid}'"
    bed.apply(m.template(pods.place, "that", m.claim_spec(cel=cel)))
    pods.create(m.pod(pods.place, "pod", templates={"gpu": "that"}))
    bed.wait_running(pods.place, "pod")
    claim, mark = rpc.ref(pods.claim_of("pod")), bed.only.log_size()
    missing = f"/dev/nvidia{gpu.minor} does not exist"
    with rpc.plugin(bed.only) as plugin, ThreadPoolExecutor(1) as thread:
        with moved_away(bed.only.sim.path / f"dev/nvidia{gpu.minor}"):
            call = thread.submit(lambda: plugin.prepare(claim, timeout_s=40))
            wait_until("it is missed", lambda: missing in bed.only.logged(mark), 30)
            wait_until("gpu-3 withdrawn", lambda: "gpu-3" not in bed.devices(bed.only.name), 30)
            assert not call.done()
        assert not call.result().errors
    bed.wait_for_devices()
    assert pods.exec_gpus("pod") == [gpu.uuid]
    assert not [said for said in pods.messages("pod") if PREPARE_FAILED in said]
