"""ComputeDomains rolled out to two hosts: explicit, with NVIDIA's own unit out of the way, and not disturbed by an upgrade."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.beds.cluster.marks import needs_cluster
from tests.beds.rack import credential, domains, releases
from tests.beds.rack.hosts import Rack
from tests.beds.rack.playbooks import Run, play
from tests.lib.waits import wait_until

pytestmark = [*needs_cluster(timeout_s=1200), pytest.mark.packages]

PATIENCE_S = 300.0
_DEVICE_PLUGIN = """\
import pathlib, socket
place = pathlib.Path("/var/lib/kubelet/device-plugins")
place.mkdir(exist_ok=True)
socket.socket(socket.AF_UNIX).bind(str(place / "nvidia-gpu.sock"))
"""
"""The socket of NVIDIA's device plugin."""


class Fabric:
    """Two hosts of one clique, and what is rolled out to them."""

    def __init__(self, rack: Rack, packages: releases.Releases) -> None:
        self.rack = rack
        self.packages = packages

    def site(self, **changes: object) -> Run:
        """Roll out, ComputeDomains too."""
        known = {
            "nvdra_package_dir": self.packages.this,
            "nvdra_compute_domains": True,
            **credential.variables(self.rack),
        }
        return play(self.rack, "site", variables={**known, **changes})


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    made = releases.make(tmp_path_factory.mktemp("packages") / "made")
    with Rack.up("rack-domains", hosts=2, racks=1) as rack:
        credential.set_up(rack)
        domains.install_vendor_unit(rack)
        with domains.controller(rack):
            yield Fabric(rack, made)


def test_vendor_imex_fails_preflight_until_configured(fabric: Fabric) -> None:
    done = fabric.site()
    assert done.status != 0
    assert "nvdra_vendor_imex=disable" in done.text
    assert "Nothing was changed on any host" in done.text
    assert domains.states(fabric.rack, domains.VENDOR) == {"active enabled"}
    assert {fabric.rack.version(host) for host in fabric.rack.hosts} == {""}


def test_unreachable_peers_fail_preflight(fabric: Fabric) -> None:
    first, second = fabric.rack.hosts.values()
    address = second.address
    first.run(["ip", "route", "add", "prohibit", f"{address}/32"])
    try:
        done = fabric.site(nvdra_vendor_imex="disable")
    finally:
        first.run(["ip", "route", "del", "prohibit", f"{address}/32"])
    assert done.status != 0
    assert f"IMEX cannot reach {second.name} ({address}) port 24000" in done.text, done.text
    assert {fabric.rack.version(host) for host in fabric.rack.hosts} == {""}
    for node in (first, second):
        assert "24000" not in node.run(["ss", "-ltn"]).stdout, "the listener has ended"


def test_services_pass_gate_and_vendor_unit_is_masked(fabric: Fabric) -> None:
    done = fabric.site(nvdra_vendor_imex="disable")
    assert done.status == 0, done.text
    for unit in domains.SERVICES:
        assert domains.states(fabric.rack, unit) == {"active enabled"}
    assert domains.states(fabric.rack, domains.VENDOR) == {"inactive masked"}
    assert domains.channels(fabric.rack) == set(fabric.rack.hosts), "the gate has waited for it"
    assert domains.states(fabric.rack, domains.GPU) == {"active enabled"}


def test_second_run_changes_and_restarts_nothing(fabric: Fabric) -> None:
    before = [domains.runs(fabric.rack, unit) for unit in domains.SERVICES]
    done = fabric.site(nvdra_vendor_imex="disable")
    assert (done.status, done.hosts_with("changed")) == (0, []), done.text
    assert [domains.runs(fabric.rack, unit) for unit in domains.SERVICES] == before


def test_job_over_all_hosts_survives_upgrade(fabric: Fabric) -> None:
    rack = fabric.rack
    domains.start_job(rack)
    rack.bed.wait_running(domains.JOB, *rack.hosts, timeout_s=PATIENCE_S)
    imex, before = domains.runs(rack, domains.IMEX), domains.containers(rack)
    assert all(imex)
    supervisors = domains.runs(rack, domains.SERVICES[0])
    done = fabric.site(nvdra_vendor_imex="disable", nvdra_package_dir=fabric.packages.next)
    assert done.status == 0, done.text
    assert not set(domains.runs(rack, domains.SERVICES[0])) & set(supervisors), "restarted"
    assert domains.runs(rack, domains.IMEX) == imex, "and its daemon not"
    assert domains.containers(rack) == before
    ready = "jsonpath={.status.status}"
    said = rack.cluster.kubectl("get", "computedomain", "train", "-n", domains.JOB, "-o", ready)
    assert said == "Ready"


def test_uninstall_waits_for_job_and_leaves_nothing(
    fabric: Fabric,
) -> None:
    rack = fabric.rack
    done = play(rack, "uninstall", variables={"nvdra_purge": True})
    assert done.status != 0
    assert "claims are prepared" in done.text
    kubectl = rack.cluster.kubectl
    kubectl("delete", "pods", "-n", domains.JOB, "--all", "--timeout=120s", timeout_s=150)
    kubectl("delete", "computedomains", "-n", domains.JOB, "--all", "--wait=false")
    wait_until("the domain is deleted", lambda: domains.is_gone(rack), PATIENCE_S)
    done = play(rack, "uninstall", variables={"nvdra_purge": True})
    assert done.status == 0, done.text
    assert domains.channels(rack) == set()
    states = {unit: domains.states(rack, unit) for unit in (*domains.SERVICES, domains.IMEX)}
    assert {unit: {"inactive"} for unit in states} == states
    assert domains.states(rack, domains.VENDOR) == {"active enabled"}, "as before the rollout"


def test_domains_alone_roll_out_beside_device_plugin(fabric: Fabric) -> None:
    for node in fabric.rack.hosts.values():
        node.run(["python3", "-c", _DEVICE_PLUGIN])
    done = fabric.site(nvdra_vendor_imex="disable")
    assert (done.status != 0, "nvdra_gpus=false" in done.text) == (True, True)
    done = fabric.site(nvdra_vendor_imex="disable", nvdra_gpus=False)
    assert done.status == 0, done.text
    for unit in domains.SERVICES:
        assert domains.states(fabric.rack, unit) == {"active enabled"}
    assert domains.states(fabric.rack, domains.GPU) == {"inactive disabled"}
    assert domains.channels(fabric.rack) == set(fabric.rack.hosts)
