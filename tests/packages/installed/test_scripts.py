"""What the packages' scripts do to units, on a host whose systemctl has states and starts nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nvdra_packages.layout import LIBRARY
from tests.beds.cluster.artifacts.build import install_packages
from tests.beds.host.userland import DISTRIBUTIONS, Userland, changeable
from tests.packages.conftest import Packages
from tests.packages.installed.test_rpm import RpmRoot
from tests.packages.marks import needs_packages

pytestmark = needs_packages()

SYSTEMCTL = Path(__file__).with_name("systemctl.sh")
GPU, DOMAIN = "nvdra-gpu-plugin.service", "nvdra-compute-domain-plugin.service"
TARGET, TIMER, IMEX = "nvdra.target", "nvdra-credential.timer", "nvdra-imex.service"
VENDOR = "nvidia-imex.service"
RUNNING = {
    GPU: "active enabled",
    DOMAIN: "inactive disabled",
    TARGET: "active enabled",
    TIMER: "active static",
    IMEX: "active static",
}
PEERS = "/run/nvidia-imex/persist.dat"


class Host:
    """A userland with units."""

    def __init__(self, userland: Userland) -> None:
        self.userland = userland
        userland.path("/run/systemd/system").mkdir(parents=True)
        userland.path("/run/units").mkdir()
        # In the place of the real one; without a systemd the other tools have nothing to do.
        for name in ("systemctl", "systemd-tmpfiles", "udevadm"):
            text = SYSTEMCTL.read_text() if name == "systemctl" else "#!/bin/sh\n"
            userland.write(f"/usr/bin/{name}", text)
            userland.path(f"/usr/bin/{name}").chmod(0o755)

    @property
    def units(self) -> dict[str, str]:
        """State of each unit."""
        place = self.userland.path("/run/units")
        return {path.name: path.read_text().strip() for path in sorted(place.iterdir())}

    def set(self, units: dict[str, str]) -> None:
        """Give units their states."""
        for name, state in units.items():
            self.userland.write(f"/run/units/{name}", f"{state}\n")


@pytest.fixture
def host(packages: Packages, tmp_path: Path) -> Iterator[Host]:
    """The deb is installed, and everything that nvdra runs runs, but for the ComputeDomain plugin."""
    with changeable(tmp_path, DISTRIBUTIONS[0].root()) as made:
        host = Host(made)
        made.install(packages.deb, packages.toolkit)
        host.set(RUNNING)
        yield host


@pytest.fixture
def rpm(packages: Packages, tmp_path: Path) -> Iterator[tuple[RpmRoot, Host]]:
    """The same with the rpm."""
    install_packages(packages={"rpm": "rpm"})
    with changeable(tmp_path, DISTRIBUTIONS[0].root()) as made:
        host, root = Host(made), RpmRoot(made, tmp_path)
        root.provide("python3", "3.12.5")
        root.rpm("-i", packages.rpm)
        host.set(RUNNING)
        yield root, host


def fail_in(userland: Userland, script: str) -> None:
    """Have an installed script fail at its end."""
    path = userland.path(f"/var/lib/dpkg/info/{script}")
    path.write_text(f"{path.read_text()}\nexit 1\n")


def test_aborted_removal_leaves_the_services_running(host: Host) -> None:
    fail_in(host.userland, "nvdra.prerm")
    done = host.userland.run("dpkg", "--remove", "nvdra", check=False)
    assert done.returncode != 0
    assert host.units == dict(sorted(RUNNING.items()))
    assert not host.userland.path("/run/nvdra-stopped").exists()


def test_removal_stops_all_but_imex_and_clears_run_state(host: Host) -> None:
    host.userland.run("dpkg", "--remove", "nvdra")
    stopped = {
        unit: RUNNING[unit].replace("active", "inactive", 1) for unit in (GPU, TARGET, TIMER)
    }
    assert host.units == dict(sorted({**RUNNING, **stopped}.items()))
    assert not host.userland.path("/run/nvdra-stopped").exists()


def test_rpm_removal_that_fails_leaves_the_services_running(rpm: tuple[RpmRoot, Host]) -> None:
    root, host = rpm
    # What the script does last fails, as on a file system that has become read-only.
    host.userland.write("/usr/bin/find", "#!/bin/sh\nexit 1\n")
    host.userland.path("/usr/bin/find").chmod(0o755)
    root.rpm("-e", "nvdra", check=False)
    assert root.rpm("-q", "nvdra", check=False).returncode == 0, "the package is still there"
    assert host.units == dict(sorted(RUNNING.items()))


def leave_traces(host: Host) -> None:
    """What a host has on which IMEX served a ComputeDomain, and whose vendor's unit a rollout masked."""
    host.set({VENDOR: "inactive masked"})
    host.userland.write("/var/lib/nvdra/vendor-imex", f"{VENDOR} enabled active\n")
    host.userland.write("/run/nvdra/imex/imexd.cfg", "")
    host.userland.write(PEERS, "peers of a domain")


def test_deb_purge_stops_imex_and_restores_vendor_unit(host: Host) -> None:
    leave_traces(host)
    host.userland.run("dpkg", "--purge", "nvdra")
    assert {state.split()[0] for unit, state in host.units.items() if unit != VENDOR} == {
        "inactive"
    }
    assert host.units[VENDOR] == "active enabled"
    assert not host.userland.path(PEERS).exists()
    assert not host.userland.path("/var/lib/nvdra").exists()


def test_rpm_purge_stops_imex_and_restores_vendor_unit(rpm: tuple[RpmRoot, Host]) -> None:
    root, host = rpm
    leave_traces(host)
    host.userland.run(f"/{LIBRARY}/purge.sh")
    root.rpm("-e", "nvdra")
    assert {state.split()[0] for unit, state in host.units.items() if unit != VENDOR} == {
        "inactive"
    }
    assert host.units[VENDOR] == "active enabled"
    assert not host.userland.path(PEERS).exists()


def test_purge_keeps_vendor_unit_masked_by_operator(host: Host) -> None:
    host.set({VENDOR: "inactive masked"})
    host.userland.run("dpkg", "--purge", "nvdra")
    assert host.units[VENDOR] == "inactive masked"


def test_purge_keeps_peers_of_running_vendor_imex(host: Host) -> None:
    leave_traces(host)
    host.userland.path("/var/lib/nvdra/vendor-imex").unlink()
    host.set({VENDOR: "active enabled"})
    host.userland.run("dpkg", "--purge", "nvdra")
    assert host.userland.path(PEERS).exists()
