"""The deb on a host of a real cluster, with pods that hold GPUs: installed, upgraded, downgraded, removed, purged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver.gpu_bed import Bed
from tests.beds.cluster.driver.pods import Pods
from tests.beds.cluster.marks import needs_cluster
from tests.beds.host import package_host as hosts
from tests.beds.host.package_host import PackageHost
from tests.lib.waits import wait_until
from tests.packages.conftest import NEXT, RELEASE, Packages

pytestmark = [*needs_cluster(timeout_s=1200), pytest.mark.packages]

GPU = {"gpu": "gpu"}
STATE = "/var/lib/nvdra"


@pytest.fixture(scope="module")
def up(packages: Packages) -> Iterator[tuple[Bed, PackageHost]]:
    with hosts.up("packages", packages) as made:
        yield made


@pytest.fixture
def bed(up: tuple[Bed, PackageHost]) -> Bed:
    return up[0]


@pytest.fixture
def bare(up: tuple[Bed, PackageHost]) -> PackageHost:
    """The host without our package."""
    host = up[1]
    host.sh("dpkg", "--purge", "nvdra")
    return host


@pytest.fixture
def host(bed: Bed, bare: PackageHost) -> PackageHost:
    """The host with the package installed and everything started."""
    bare.apt("install", "nvdra.deb", "nvidia-container-toolkit-base.deb")
    bare.start()
    bed.wait_for_devices()
    return bare


@pytest.fixture
def pods(bed: Bed, request: pytest.FixtureRequest) -> Iterator[Pods]:
    place = request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-")
    bed.apply(m.namespace(place), m.template(place, "gpu", m.claim_spec()))
    made = Pods(bed, place)
    yield made
    for name in made.names():
        made.delete(name, force=True)


@pytest.fixture
def pod(bed: Bed, host: PackageHost, pods: Pods) -> str:
    """A running pod that holds a GPU."""
    pods.create(m.pod(pods.place, "before", templates=GPU))
    bed.wait_running(pods.place, "before")
    return "before"


def run_another_pod(bed: Bed, pods: Pods, name: str) -> None:
    pods.create(m.pod(pods.place, name, templates=GPU))
    bed.wait_running(pods.place, name)


def test_installation_starts_and_enables_nothing(bare: PackageHost) -> None:
    bare.apt("install", "nvdra.deb", "nvidia-container-toolkit-base.deb")
    assert bare.version() == RELEASE
    assert bare.pid() == 0
    listed = bare.sh(
        "systemctl", "list-unit-files", "--no-legend", "--state=enabled", "nvdra*", check=False
    )
    assert listed == ""


def test_enabled_target_publishes_with_default_settings(
    bed: Bed, host: PackageHost, pods: Pods
) -> None:
    assert len(bed.devices(hosts.NODE_NAME)) == 8
    assert host.sh("dpkg", "--verify", "nvdra") == ""
    run_another_pod(bed, pods, "pod")
    assert len(bed.uuids(pods.place, "pod")) == 1


@pytest.mark.parametrize("is_downgrade", [False, True], ids=["upgrade", "downgrade"])
def test_change_of_release_restarts_service_and_disturbs_no_pod(
    bed: Bed, host: PackageHost, pods: Pods, is_downgrade: bool
) -> None:
    steps = [("nvdra.deb", RELEASE), ("nvdra-next.deb", NEXT)]
    first, second = reversed(steps) if is_downgrade else steps
    host.apt("install", first[0])
    run_another_pod(bed, pods, "before")
    identities, pid = pods.identities(), host.pid()
    host.apt("install", second[0])
    assert host.version() == second[1]
    assert host.pid() not in (0, pid)
    run_another_pod(bed, pods, "after")
    assert {
        name: found for name, found in pods.identities().items() if name == "before"
    } == identities
    assert pods.exec_gpus("before") != pods.exec_gpus("after")
    for name in ("before", "after"):
        pods.delete(name)
        pods.wait_deleted(name)
    assert host.leftovers() == []


def test_removal_keeps_pods_and_claims(bed: Bed, host: PackageHost, pods: Pods, pod: str) -> None:
    identities, kept = pods.identities(), host.leftovers()
    assert len(kept) == 2
    host.apt("remove", "nvdra")
    assert host.version() == ""
    assert host.sockets() == []
    assert host.leftovers() == kept
    assert pods.identities() == identities
    wait_until("slices deleted", lambda: bed.slices() == [], 90)
    # The container runtime finds the claim's device again, without us.
    bed.cluster.kubectl("exec", "-n", pods.place, pod, "--", "kill", "1")
    wait_until("container runs again", lambda: pods.identities()[pod][0].restarts == 1, 60)
    bed.wait_running(pods.place, pod)
    # Installed again, it knows the claim.
    host.apt("install", "nvdra.deb")
    host.start()
    bed.wait_for_devices()
    pods.delete(pod)
    pods.wait_deleted(pod)
    assert host.leftovers() == []


def test_purge_leaves_nothing_and_pod_keeps_running(
    bed: Bed, host: PackageHost, pods: Pods, pod: str
) -> None:
    identities = pods.identities()
    host.apt("purge", "nvdra")
    assert host.leftovers() == []
    assert host.sockets() == []
    for path in (
        STATE,
        "/run/nvdra",
        "/etc/nvdra",
        "/usr/lib/nvdra",
        "/etc/systemd/system/multi-user.target.wants",
    ):
        assert [name for name in host.files(f"{path}/*") if "nvdra" in name] == []
    assert host.sh("systemctl", "list-units", "--all", "--no-legend", "nvdra*") == ""
    assert pods.identities() == identities
