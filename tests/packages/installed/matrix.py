"""``make test-matrix``: the deb under every systemd that can be had, with claims that are prepared.

Installed, upgraded, downgraded, removed, purged on five releases: too long for every run, so that this file is not
collected by itself (its name does not begin with ``test_``). Run by ``tests/run.py test-matrix``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.beds.cluster.marks import needs_cluster
from tests.beds.host import matrix_host
from tests.beds.host.matrix_host import PATIENCE_S, MatrixHost
from tests.beds.host.units import BROKER, SOCKET, SUPERVISOR, UNIT
from tests.beds.host.versions import RELEASES, Release
from tests.beds.rack import releases
from tests.beds.rack.releases import NEXT, THIS, Releases
from tests.lib.waits import wait_until

pytestmark = [*needs_cluster(timeout_s=1200), pytest.mark.packages]

UNFIT = [release for release in RELEASES if release.name == "bullseye"]
"""Its Python is 3.9."""
FIT = [release for release in RELEASES if release not in UNFIT]
SERVICES = (UNIT, SUPERVISOR, "nvdra-compute-domain-plugin.service", BROKER)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return releases.make(tmp_path_factory.mktemp("packages") / "made")


@pytest.fixture(scope="module", params=FIT, ids=lambda release: str(release.name))
def machine(made: Releases, request: pytest.FixtureRequest) -> Iterator[MatrixHost]:
    """A host of a release that the package is for."""
    with matrix_host.booted(request.param, made) as host:
        print(f"{request.param.name}: {host.version}")
        yield host


@pytest.fixture
def bare(machine: MatrixHost) -> MatrixHost:
    """The host without our package."""
    machine.run(["dpkg", "--purge", "nvdra"], check=False)
    assert machine.package() == ""
    return machine


@pytest.fixture
def host(bare: MatrixHost) -> MatrixHost:
    """The host with the service running and two claims prepared."""
    bare.begin()
    bare.prepare("first", "second")
    assert len(bare.kept()) == 4
    return bare


def wait_for_another(host: MatrixHost, unit: str, pid: str) -> None:
    """Until a unit's main process runs and is not ``pid``."""
    seen = ("0", pid)
    wait_until(f"{unit} runs again", lambda: host.show("MainPID", unit) not in seen, PATIENCE_S)


@pytest.mark.parametrize("release", UNFIT, ids=lambda release: str(release.name))
def test_too_old_host_is_refused_by_package_manager(made: Releases, release: Release) -> None:
    with matrix_host.booted(release, made) as host:
        said = host.apt("install", "this.deb", "toolkit.deb", check=False)
        assert "python3 (>= 3.10)" in said
        assert host.package() == ""
        assert not host.path("/usr/lib/nvdra").exists()


def test_installation_starts_and_enables_nothing(bare: MatrixHost) -> None:
    bare.apt("install", "this.deb", "toolkit.deb")
    assert (bare.package(), bare.pid()) == (THIS, "0")
    words = ("list-unit-files", "--no-legend", "--state=enabled", "nvdra*")
    assert bare.systemctl(*words, check=False) == ""
    assert bare.systemctl("is-active", "nvdra-credential.timer", check=False) == "inactive\n"


def test_enabled_service_prepares_claims_and_renews_credential(host: MatrixHost) -> None:
    assert host.systemctl("is-active", UNIT) == "active\n"
    assert host.systemctl("is-active", "nvdra-credential.timer") == "active\n"
    (device,) = host.prepare("third")[host.claim("third")[2]]
    assert (device.device, device.pool) == ("gpu-2", matrix_host.NODE)
    host.unprepare("third")


@pytest.mark.parametrize("is_downgrade", [False, True], ids=["upgrade", "downgrade"])
def test_other_release_serves_existing_claims(host: MatrixHost, is_downgrade: bool) -> None:
    if is_downgrade:
        host.apt("install", "next.deb")
        wait_for_another(host, UNIT, "0")
    before, pid = host.kept(), host.pid()
    answered = host.prepare("first", "second")
    said = host.apt("install", "this.deb" if is_downgrade else "next.deb")
    assert "did not start again" not in said
    assert host.package() == (THIS if is_downgrade else NEXT)
    wait_for_another(host, UNIT, pid)
    assert host.kept() == before
    assert host.prepare("first", "second") == answered, "and repeats are answered alike"
    host.prepare("third")
    host.unprepare("first", "second", "third")
    assert host.kept() == {}
    assert host.systemctl("is-active", "nvdra-credential.timer") == "active\n"


def test_removal_stops_everything_and_keeps_claims(host: MatrixHost) -> None:
    before = host.kept()
    host.apt("remove", "nvdra")
    assert (host.package(), host.pid()) == ("", "0")
    assert host.kept() == before
    left = host.systemctl("list-units", "--plain", "--no-legend", "--state=active", "nvdra*")
    assert left == "", "no timer and no service goes on without its program"
    assert list(host.path("/var/lib/kubelet/plugins_registry").iterdir()) == []
    host.apt("install", "this.deb")
    host.systemctl("enable", "--now", "nvdra.target")
    host.prepare("first", "second")
    assert host.kept() == before
    host.unprepare("first", "second")
    assert host.kept() == {}


def test_purge_leaves_nothing(host: MatrixHost) -> None:
    host.write("/var/lib/nvdra/credential/token", "of a node\n", mode=0o600)
    host.apt("purge", "nvdra")
    assert host.kept() == {}
    for path in (
        "/var/lib/nvdra",
        "/run/nvdra",
        "/etc/nvdra",
        "/usr/lib/nvdra",
        "/var/cache/nvdra",
    ):
        assert not host.path(path).exists(), path
    assert host.systemctl("list-units", "--all", "--plain", "--no-legend", "nvdra*") == ""
    enabled = ("find", "/etc/systemd/system", "-name", "nvdra*")
    assert host.run(list(enabled)).stdout == ""


def test_removal_stops_and_upgrade_starts_all_services(host: MatrixHost) -> None:
    host.systemctl("start", *SERVICES)
    pids = {unit: host.show("MainPID", unit) for unit in SERVICES}
    assert "0" not in pids.values()
    host.apt("install", "next.deb")
    for unit, pid in pids.items():
        wait_for_another(host, unit, pid)
    host.apt("remove", "nvdra")
    assert {host.show("ActiveState", unit) for unit in (*SERVICES, SOCKET)} == {"inactive"}
    assert not host.path("/run/nvdra/units.sock").exists()


def test_upgrade_from_release_without_broker_adds_its_socket(bare: MatrixHost) -> None:
    bare.apt("install", "older.deb", "toolkit.deb")
    bare.configure()
    bare.systemctl("start", SUPERVISOR)
    assert bare.show("LoadState", SOCKET) == "not-found"
    for _ in range(2):
        pid = bare.show("MainPID", SUPERVISOR)
        said = bare.apt("install", "this.deb")
        assert "did not start again" not in said, (
            said + bare.run(["journalctl", "--no-pager", "-u", BROKER, "-u", SOCKET]).stdout
        )
        wait_for_another(bare, SUPERVISOR, pid)
        assert bare.show("ActiveState", SOCKET) == "active"
        pid = bare.show("MainPID", SUPERVISOR)
        bare.apt("install", "older.deb")
        wait_for_another(bare, SUPERVISOR, pid)
    bare.apt("purge", "nvdra")
    assert bare.systemctl("list-units", "--all", "--plain", "--no-legend", "nvdra*") == ""
    assert not bare.path("/run/nvdra").exists()
