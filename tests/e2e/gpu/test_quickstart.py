"""The claims of upstream's quickstart, unchanged, on each Kubernetes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.beds.cluster.artifacts import programs
from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver.gpu_bed import Bed
from tests.lib.waits import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NUMBERS = itertools.count(1)
"""Each test has its own namespace: a terminating one admits nothing."""


@pytest.fixture(scope="module", params=programs.KUBERNETES)
def bed(able: None, request: pytest.FixtureRequest) -> Iterator[Bed]:
    with Bed.up(f"qs-{request.param.replace('.', '')}", kubernetes=request.param) as made:
        made.wait_for_devices()
        yield made


@pytest.fixture
def place(bed: Bed, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for the test; afterwards nothing of its claims may be left on any node."""
    words = request.node.originalname.removeprefix("test_").replace("_", "-")[:40].strip("-")
    name = f"{words}-{next(NUMBERS)}"
    bed.apply(m.namespace(name))
    yield name
    bed.delete_namespace(name)
    bed.wait_clean()


def test_two_pods_with_a_template_get_one_gpu_each(bed: Bed, place: str) -> None:
    bed.apply(
        m.template(place, "single-gpu", m.claim_spec()),
        m.pod(place, "pod1", templates={"gpu": "single-gpu"}),
        m.pod(place, "pod2", templates={"gpu": "single-gpu"}),
    )
    bed.wait_running(place, "pod1", "pod2")
    one, two = bed.uuids(place, "pod1"), bed.uuids(place, "pod2")
    assert len(one) == len(two) == 1
    assert one != two


def test_two_containers_share_the_gpu_of_one_claim(bed: Bed, place: str) -> None:
    bed.apply(
        m.template(place, "single-gpu", m.claim_spec()),
        m.pod(
            place,
            "pod",
            templates={"shared-gpu": "single-gpu"},
            containers={"ctr0": ["shared-gpu"], "ctr1": ["shared-gpu"]},
        ),
    )
    bed.wait_running(place, "pod")
    assert bed.uuids(place, "pod", "ctr0") == bed.uuids(place, "pod", "ctr1")


def test_two_pods_share_the_gpu_of_one_claim(bed: Bed, place: str) -> None:
    bed.apply(
        m.claim(place, "single-gpu", m.claim_spec()),
        m.pod(place, "pod1", claims={"shared-gpu": "single-gpu"}),
        m.pod(place, "pod2", claims={"shared-gpu": "single-gpu"}),
    )
    bed.wait_running(place, "pod1", "pod2")
    assert bed.uuids(place, "pod1") == bed.uuids(place, "pod2")


def test_two_claims_of_one_pod_give_each_container_its_own_gpu(bed: Bed, place: str) -> None:
    bed.apply(
        m.template(place, "single-gpu", m.claim_spec()),
        m.pod(
            place,
            "gpu-pod",
            templates={"gpu0": "single-gpu", "gpu1": "single-gpu"},
            containers={"ctr0": ["gpu0"], "ctr1": ["gpu1"]},
        ),
    )
    bed.wait_running(place, "gpu-pod")
    assert bed.uuids(place, "gpu-pod", "ctr0") != bed.uuids(place, "gpu-pod", "ctr1")


@pytest.mark.parametrize(
    "cel",
    [
        "device.attributes['gpu.nvidia.com'].productName.lowerAscii().matches('^.*h100.*$')",
        "device.attributes['gpu.nvidia.com'].architecture == 'Hopper'",
        "device.capacity['gpu.nvidia.com'].memory.compareTo(quantity('40Gi')) >= 0",
        "device.attributes['gpu.nvidia.com'].driverVersion.compareTo(semver('500.0.0')) > 0",
    ],
    ids=["product", "architecture", "memory", "driver-version"],
)
def test_gpu_is_selected_by(bed: Bed, place: str, cel: str) -> None:
    bed.apply(
        m.template(place, "selected", m.claim_spec(cel=cel)),
        m.pod(place, "pod", templates={"gpu": "selected"}),
    )
    bed.wait_running(place, "pod")
    assert len(bed.uuids(place, "pod")) == 1


def test_selector_matching_no_gpu_leaves_pod_pending(bed: Bed, place: str) -> None:
    cel = "device.attributes['gpu.nvidia.com'].productName == 'Abacus'"
    bed.apply(
        m.template(place, "selected", m.claim_spec(cel=cel)),
        m.pod(place, "pod", templates={"gpu": "selected"}),
    )
    wait_until("the scheduler's word on it", lambda: "FailedScheduling" in bed.events(place), 20)
    assert bed.pod_phase(place, "pod") == "Pending"


def test_extended_resource_gives_gpus_without_a_claim(bed: Bed, place: str) -> None:
    bed.apply(m.pod(place, "pod", extended=2))
    bed.wait_running(place, "pod")
    assert len(bed.uuids(place, "pod")) == 2


def test_admin_access_shares_a_gpu_in_use(bed: Bed, place: str) -> None:
    bed.cluster.kubectl(
        "label", "namespace", place, "resource.kubernetes.io/admin-access=true", "--overwrite"
    )
    bed.apply(
        m.template(place, "all", m.claim_spec(count=8)),
        m.template(place, "monitor", m.claim_spec(admin=True)),
        m.pod(place, "user", templates={"gpu": "all"}),
    )
    bed.wait_running(place, "user")
    bed.apply(m.pod(place, "watcher", templates={"gpu": "monitor"}))
    bed.wait_running(place, "watcher")
    assert set(bed.uuids(place, "watcher")) < set(bed.uuids(place, "user"))


def test_container_sees_only_its_own_gpu(bed: Bed, place: str) -> None:
    bed.apply(
        m.template(place, "single-gpu", m.claim_spec()),
        m.pod(place, "pod", templates={"gpu": "single-gpu"}),
    )
    bed.wait_running(place, "pod")
    (uuid,) = bed.uuids(place, "pod")
    minor = next(g.minor for g in bed.only.sim.profile.gpus if g.uuid == uuid)
    inside = bed.cluster.kubectl("exec", "-n", place, "pod", "--", "sh", "-c", "ls /dev; env")
    words = inside.split()
    nodes = sorted(w for w in words if w.startswith("nvidia"))
    assert nodes == sorted(
        ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", f"nvidia{minor}"]
    )
    assert "NVIDIA_VISIBLE_DEVICES=void" in words
