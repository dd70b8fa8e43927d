"""Debian's needrestart with the file that the packages bring: nvidia-imex is not restarted when a library is upgraded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvdra_packages.layout import NEEDRESTART, PACKAGING
from tests.beds.cluster.artifacts import host_image
from tests.beds.cluster.artifacts.build import install_packages
from tests.beds.host.units import IMEX_FILES
from tests.beds.host.versions import RELEASES, VersionHost, ensure
from tests.sim.api import SimRoot

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

HOME = Path("/var/lib/nvdra-needrestart")
IMEX, OTHER = "nvdra-imex.service", "other.service"
PROGRAM = "/usr/local/bin/a-daemon"
UPGRADE = f"cp {PROGRAM} {PROGRAM}.new && mv {PROGRAM}.new {PROGRAM}"


class UpgradedHost(VersionHost):
    """A host with needrestart, on which the program of two services will be replaced."""

    def __init__(self) -> None:
        release = next(found for found in RELEASES if found.name == "bookworm")
        super().__init__(release, HOME, SimRoot.create(HOME / "sim", "gb200-nvl4"))
        self._cgroup = "nvdra-systemd.needrestart"

    def system(self) -> Path:
        """See VersionHost."""
        return ensure(self.release, ("needrestart",))

    def invocation(self, unit: str) -> str:
        return self.show("InvocationID", unit)


@pytest.fixture(scope="module")
def host(able: None) -> Iterator[UpgradedHost]:
    install_packages(packages=host_image.TOOLS)
    made = UpgradedHost()
    made.end()
    for name in ("pids", "root", "upper", "work"):
        shutil.rmtree(HOME / name, ignore_errors=True)
        (HOME / name).mkdir()
    try:
        made.start()
        made.run(["sh", "-ec", f"cp /bin/sleep {PROGRAM}; {IMEX_FILES}"])
        made.write("/usr/bin/nvidia-imex", f"#!/bin/sh\nexec {PROGRAM} 9999\n", mode=0o755)
        unit = f"[Service]\nExecStart={PROGRAM} 9999\n"
        made.write(f"/run/systemd/system/{OTHER}", unit)
        made.systemctl("daemon-reload")
        yield made
    finally:
        made.end()
        shutil.rmtree(HOME, ignore_errors=True)


@pytest.mark.parametrize("is_excluded", [True, False], ids=["with our file", "without it"])
def test_library_upgrade_restarts_all_but_imex(host: UpgradedHost, is_excluded: bool) -> None:
    host.run(["rm", "-f", f"/{NEEDRESTART}"])
    if is_excluded:
        host.write(f"/{NEEDRESTART}", (PACKAGING / "etc" / "needrestart.conf").read_text())
    host.systemctl("start", IMEX, OTHER)
    before = {unit: host.invocation(unit) for unit in (IMEX, OTHER)}
    host.run(["sh", "-ec", UPGRADE])
    done = host.run(["needrestart", "-r", "a", "-l"])
    print(done.stdout, done.stderr)
    restarted = {unit for unit in before if host.invocation(unit) != before[unit]}
    assert restarted == ({OTHER} if is_excluded else {OTHER, IMEX})
