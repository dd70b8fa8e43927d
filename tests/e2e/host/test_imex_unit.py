"""nvdra-imex.service under a real systemd, with the simulated nvidia-imex in its sandbox."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.host.commands import SystemCommands
from nvdra_node.host.files import HostFiles
from nvdra_node.host.systemctl import SystemctlUnits
from nvdra_node.imex.daemon.render import Layout
from nvdra_node.imex.daemon.store import Store
from nvdra_node.imex.daemon.unit import SystemdClient
from nvdra_node.imex.model import Run, UnitActivity
from tests.beds.cluster.artifacts import host_image
from tests.beds.cluster.artifacts.build import install_packages
from tests.beds.host.versions import RELEASES, Release, VersionHost
from tests.beds.memory.imex_node import CLIQUE, a_domain, a_spec
from tests.lib.waits import wait_until
from tests.sim.api import SimRoot
from tests.sim.imex import install

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

HOME = Path("/var/lib/nvdra-systemd-imex")
LAYOUT = Layout(Path("/run/nvdra/imex"), Path("/var/lib/nvdra/imex/tls"))
RUN = Run(domain_uid="A", clique_id=CLIQUE, slot=2, slot_count=18, port=50065, address="127.0.0.1")
DIRECTORIES = "/run/nvdra/imex/ctl /run/nvidia-imex"
"""Directories of nvdra-imex-supervisor.service and the supervisor."""


class ImexHost(VersionHost):
    """A host of its own, beside those of the other tests."""

    def __init__(self, release: Release, home: Path, sim: SimRoot) -> None:
        super().__init__(release, home, sim)
        self._cgroup = f"nvdra-systemd.imex-{release.name}"

    def ctl(self, *options: str) -> str:
        program = f"{self.sim.path}/usr/bin/nvidia-imex-ctl"
        argv = ["python3", program, "-u", str(LAYOUT.commands), "-c", str(LAYOUT.config), *options]
        return self.run(argv, check=False).stdout

    def store(self) -> Store:
        """The supervisor's own writer, on the host's files."""
        there = Layout(self.path(str(LAYOUT.directory)), LAYOUT.tls, self.path("/run/nvidia-imex"))
        return Store(HostFiles(), there, self._home / "node.json")


@pytest.fixture(scope="module", params=RELEASES, ids=lambda release: str(release.name))
def host(able: None, request: pytest.FixtureRequest) -> Iterator[ImexHost]:
    install_packages(packages=host_image.TOOLS)
    sim = SimRoot.create(HOME / "sim", "gb200-nvl4")
    made = ImexHost(request.param, HOME, sim)
    made.end()
    for name in ("pids", "root", "upper", "work"):
        shutil.rmtree(HOME / name, ignore_errors=True)
        (HOME / name).mkdir()
    install.install(sim.path)
    try:
        made.start()
        # Without the kernel's session, which is simulated in a file that the sandbox may not write.
        program = f'#!/bin/sh\nexec python3 {sim.path}/usr/bin/nvidia-imex --nogpu "$@"\n'
        made.write("/usr/bin/nvidia-imex", program, mode=0o755)
        # The sandbox hides /var/lib: bind the simulated program.
        drop_in = "/etc/systemd/system/nvdra-imex.service.d/simulated.conf"
        made.write(drop_in, f"[Service]\nBindReadOnlyPaths={sim.path}\n")
        made.systemctl("daemon-reload")
        made.run(["sh", "-c", f"mkdir -p {DIRECTORIES}"])
        yield made
    finally:
        made.end()
        shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture
def started(host: ImexHost) -> Iterator[ImexHost]:
    spec = a_spec(a_domain())
    store = host.store()
    store.write_config(RUN, spec)
    # Paths in the configuration are the host's, as the daemon sees them.
    config = host.path(str(LAYOUT.config)).read_text()
    prefix = str(host.path("/")).rstrip("/")
    host.write(str(LAYOUT.config), config.replace(prefix, ""))
    host.systemctl("start", "nvdra-imex.service")
    wait_until("READY", lambda: host.ctl("-q") == "READY\n", 90)
    yield host
    host.systemctl("stop", "nvdra-imex.service")


def test_imex_is_ready_in_sandbox_and_keeps_peers_after_stop(started: ImexHost) -> None:
    assert started.show("ActiveState", "nvdra-imex.service") == "active"
    assert started.path("/run/nvidia-imex/persist.dat").exists()
    assert (
        "Identified this node as ID 2"
        in started.run(["journalctl", "--no-pager", "-u", "nvdra-imex.service"]).stdout
    )


def test_new_peer_is_resolved_by_bound_hosts_file(started: ImexHost) -> None:
    def address(slot: int) -> str:
        found = json.loads(started.ctl("-N", "-j"))["nodes"][str(slot)]["host"]
        return str(found)

    assert address(5) == "10.0.0.5" and address(7) == ""
    store = started.store()
    more = (*a_spec().slots, type(a_spec().slots[0])(index=7, node_name="n7", address="10.0.0.7"))
    assert store.write_hosts(RUN, a_spec(a_domain(), slots=more))
    started.systemctl("kill", "--signal=SIGUSR1", "nvdra-imex.service")
    wait_until("the new peer is resolved", lambda: address(7) == "10.0.0.7", 60)
    assert "imex-" not in started.path("/etc/hosts").read_text(), (
        "the host's own file is not touched"
    )


def test_systemd_adapter_reads_this_release(started: ImexHost, tmp_path: Path) -> None:
    for name in ("systemctl", "journalctl"):
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\nexec {" ".join(started._entered([name]))} "$@"\n')
        script.chmod(0o755)
    commands = SystemCommands()
    units = SystemctlUnits(commands, tmp_path / "systemctl")
    unit = SystemdClient(units, commands, tmp_path / "journalctl")
    deadline = Deadline(60.0, SystemClock())
    status = unit.status(deadline)
    assert (status.unit.activity, status.foreign) == (UnitActivity.ACTIVE, "")
    assert "Identified this node" in unit.last_log_lines(status.unit.invocation_id, deadline)
    started.systemctl("kill", "--signal=SIGKILL", "nvdra-imex.service")
    wait_until(
        "it is noticed",
        lambda: unit.status(Deadline(60.0, SystemClock())).unit.result == "signal",
        30,
    )
    ended = unit.status(Deadline(60.0, SystemClock())).unit
    assert (ended.activity, ended.exit_status) == (UnitActivity.FAILED, 9)
    assert ended.invocation_id == status.unit.invocation_id, "it is not started again"
