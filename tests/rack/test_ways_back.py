"""A rollout to a host that was set up by hand, and each way back: of an upgrade, of settings, of a removal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.beds.cluster.layout import BRIDGE_ADDRESS
from tests.beds.cluster.marks import needs_cluster
from tests.beds.rack import credential, releases
from tests.beds.rack.hosts import Rack
from tests.beds.rack.playbooks import Run, play
from tests.beds.rack.releases import BROKEN, THIS

pytestmark = [*needs_cluster(timeout_s=1200), pytest.mark.packages]

HOST = "rack1-01"
GPUS = 4
PATIENCE_S = 240.0
SERVICE = "nvdra-gpu-plugin"
SETTINGS = "/etc/nvdra/config.yaml"
CONTAINERD = "/etc/containerd/config.toml"
NO_PIPELINING = {"ANSIBLE_PIPELINING": "0", "ANSIBLE_KEEP_REMOTE_FILES": "1"}


class Host:
    """One host, and what is rolled out to it."""

    def __init__(self, rack: Rack, packages: releases.Releases) -> None:
        self.rack = rack
        self.packages = packages
        self.node = rack.hosts[HOST]
        self.config = rack.inventory()["nvdra"]["vars"]["nvdra_config"]

    def sh(self, script: str) -> str:
        """Run a shell script on the host."""
        return self.node.run(["sh", "-ec", script]).stdout.strip()

    def site(self, packages: Path, **changes: object) -> Run:
        return play(self.rack, "site", variables={"nvdra_package_dir": packages, **changes})

    @property
    def settings(self) -> str:
        return self.node.path(SETTINGS).read_text()

    @property
    def backups(self) -> list[str]:
        """Copies that rollouts left beside the settings."""
        return [path.name for path in self.node.path("/etc/nvdra").iterdir() if "~" in path.name]

    def start(self) -> str:
        """Which start of the service it is that runs; empty when it does not."""
        return self.sh(f"systemctl show -P InvocationID {SERVICE}")

    def states(self) -> str:
        return self.sh(f"systemctl show -P ActiveState -P UnitFileState {SERVICE}").replace(
            "\n", " "
        )

    def works(self) -> None:
        self.rack.bed.wait_for_devices(GPUS, timeout_s=PATIENCE_S)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = releases.make(tmp_path_factory.mktemp("packages") / "made")
    with Rack.up("rack-back", hosts=1, racks=1) as rack:
        credential.set_up(rack)
        yield Host(rack, made)


@pytest.fixture(scope="module")
def host(bare: Host) -> Host:
    """The host with the package and settings that an operator brought by hand."""
    (deb,) = bare.packages.this.iterdir()
    bare.node.path("/var/tmp/nvdra.deb").write_bytes(deb.read_bytes())
    bare.sh("dpkg -i /var/tmp/nvdra.deb")
    settings = yaml.safe_dump(bare.config).replace("{{ inventory_hostname }}", HOST)
    bare.node.path(SETTINGS).write_text(settings)
    bare.sh(f"systemctl enable --now {SERVICE}")
    bare.works()
    return bare


@pytest.fixture(scope="module")
def both(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a broken release and the one that is installed."""
    place = tmp_path_factory.mktemp("both")
    for directory in (host.packages.this, host.packages.broken):
        for path in directory.iterdir():
            shutil.copy(path, place)
    return place


def test_preflight_reports_its_findings(host: Host) -> None:
    done = play(host.rack, "preflight", variables={"nvdra_package_dir": host.packages.this})
    assert done.status == 0, done.text
    started_as = "$(tr '\\0' '\\n' </proc/$(pidof kubelet)/cmdline | head -n 1)"
    kubelet = host.sh(f"{started_as} --version").rpartition("v")[2]
    words = " ".join(done.text.split())
    assert f"nvdra {THIS}, " in words
    assert f"kubelet {kubelet}, containerd 2." in words
    assert f"address {host.node.address}" in words


def test_first_upgrade_without_the_old_package_is_refused(host: Host) -> None:
    before = host.settings, host.start()
    done = host.site(host.packages.broken)
    assert done.status != 0
    assert f"nvdra {THIS} is installed, and no deb of it is at hand" in done.text
    assert "Nothing was changed on any host" in done.text
    assert (host.settings, host.start()) == before


def test_failed_first_upgrade_restores_previous_state(host: Host, both: Path) -> None:
    before = host.settings
    done = host.site(both, nvdra_version=BROKEN, nvdra_gate_timeout_s=30)
    assert done.status != 0
    assert f"ROLLED BACK to {THIS}" in done.text, done.text
    assert host.rack.version(HOST) == THIS
    assert host.settings == before
    assert host.backups == []
    assert host.states() == "active enabled"
    host.works()


def test_runtime_not_reading_our_cdi_directory_is_refused(host: Host) -> None:
    before = host.node.path(CONTAINERD).read_text()
    changed = before.replace('["/etc/cdi", "/var/run/cdi"]', '["/etc/cdi"]')
    assert changed != before
    host.node.path(CONTAINERD).write_text(changed)
    try:
        done = host.site(host.packages.this)
    finally:
        host.node.path(CONTAINERD).write_text(before)
    assert done.status != 0
    assert "reads CDI files in /etc/cdi and not in /var/run/cdi" in done.text


def test_other_metrics_address_passes_gate_and_keeps_one_backup(host: Host) -> None:
    for path in ("/one", "/two", "/three"):
        config = {**host.config, "metricsPath": path}
        done = host.site(host.packages.this, nvdra_config=config)
        assert done.status == 0, done.text
    assert len(host.backups) == 1
    backup = host.node.path(f"/etc/nvdra/{host.backups[0]}")
    assert yaml.safe_load(backup.read_text())["metricsPath"] == "/two"
    done = host.site(host.packages.this, nvdra_config=config)
    assert (done.status, done.hosts_with("changed")) == (0, []), done.text


def test_token_leaves_no_trace_without_pipelining(host: Host) -> None:
    variables = {
        "nvdra_package_dir": host.packages.this,
        "ansible_pipelining": False,
        **credential.variables(host.rack),
    }
    done = play(host.rack, "site", variables=variables, environment=NO_PIPELINING)
    assert done.status == 0, done.text
    assert host.sh("find /root/.ansible -name 'AnsiballZ_credential.py'"), "files were kept"
    assert credential.problems(host.rack, HOST) == []
    assert credential.traces(host.rack, HOST, 0) == []
    assert yaml.safe_load(host.settings)["nodeName"] == HOST
    host.works()


def test_aborted_uninstall_keeps_service_running(host: Host) -> None:
    host.sh(f"ip route add prohibit {BRIDGE_ADDRESS}/32")
    try:
        done = play(host.rack, "uninstall", variables={"nvdra_purge": True})
    finally:
        host.sh(f"ip route del prohibit {BRIDGE_ADDRESS}/32")
    assert done.status != 0
    assert "not removed, its services run as before" in done.text, done.text
    assert host.rack.version(HOST) == THIS
    assert host.states() == "active enabled"
    host.works()


def test_purge_leaves_nothing(host: Host) -> None:
    host.sh("mkdir -p /run/nvdra/imex /run/nvidia-imex; touch /run/nvidia-imex/persist.dat")
    done = play(host.rack, "uninstall", variables={"nvdra_purge": True})
    assert done.status == 0, done.text
    places = "/usr/lib /etc /var/lib /var/cache /run"
    found = host.sh(
        f"find {places} -name '*nvdra*' -not -path '/run/nvdra-*' -not -path '/var/lib/nvdra-*/*'"
    )
    of_the_bed = ("nvdra-sim", "/etc/systemd/system/nvdra-imex.service.d")
    assert [line for line in found.splitlines() if not any(p in line for p in of_the_bed)] == []
    assert (
        host.sh(
            "find /run/nvidia-imex /run/cdi /var/lib/kubelet/plugins -name '*nvidia*' 2>/dev/null || true"
        )
        == ""
    )
