"""A node's NVLink fabric from the answers of its GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvdra_core.api.fabric import FabricState
from nvdra_core.runtime.clock import SystemClock
from nvdra_node.host.host import open_host
from nvdra_node.host.ports import HostRoots
from nvdra_node.imex.model import Fabric
from nvdra_node.imex.sources import fabric
from tests.fakes.clock import FakeClock
from tests.fakes.host.host import fake_host
from tests.fakes.host.machine import FakeFabric, FakeMachine, fake_gpus
from tests.sim.api import SimRoot

CLIQUE = "2b1c5d6e-0000-4000-8000-000000000007.32766"


@pytest.fixture
def machine() -> FakeMachine:
    found = FakeMachine(fake_gpus(4))
    for gpu in found.gpus:
        gpu.fabric = FakeFabric()
    return found


def scan(machine: FakeMachine):
    clock = FakeClock()
    return fabric.scan(fake_host(machine, clock), clock)


def test_all_registered_gpus_make_the_clique(machine):
    found = scan(machine)
    assert (found.state, found.clique_id) == (FabricState.COMPLETED, CLIQUE)
    assert found.cluster_uuid == CLIQUE.rpartition(".")[0]
    assert found.message == ""


def test_gpus_without_fabric_make_a_node_without_fabric():
    assert scan(FakeMachine(fake_gpus(2))).state is FabricState.NOT_SUPPORTED
    assert scan(FakeMachine([])).state is FabricState.NOT_SUPPORTED


def test_nvlink_within_one_box_is_no_fabric(machine):
    for gpu in machine.gpus:
        gpu.fabric = FakeFabric(cluster_uuid="00000000-0000-0000-0000-000000000000", clique_id=0)
    assert scan(machine).state is FabricState.NOT_SUPPORTED


@pytest.mark.parametrize("state", [1, 2])
def test_registering_gpu_makes_the_fabric_in_progress(machine, state):
    machine.gpus[2].fabric = FakeFabric(state=state)
    found = scan(machine)
    assert (found.state, found.clique_id) == (FabricState.IN_PROGRESS, "")
    assert machine.gpus[2].uuid in found.message


def test_failed_registration_names_the_gpu(machine):
    machine.gpus[1].fabric = FakeFabric(status=999)
    found = scan(machine)
    assert found.state is FabricState.FAILED and machine.gpus[1].uuid in found.message


def test_gpus_in_several_cliques_fail_the_fabric(machine):
    machine.gpus[1].fabric = FakeFabric(clique_id=5)
    found = scan(machine)
    assert found.state is FabricState.FAILED and "several cliques" in found.message


@pytest.mark.parametrize("sick", [FakeFabric(state=2), FakeFabric(status=999)])
def test_unregistered_gpu_has_no_fabric_without_the_gate(machine, sick):
    clock = FakeClock()
    machine.gpus[1].fabric = sick
    assert fabric.scan(fake_host(machine, clock), clock, is_strict=False).clique_id == CLIQUE
    for gpu in machine.gpus:
        gpu.fabric = sick
    found = fabric.scan(fake_host(machine, clock), clock, is_strict=False)
    assert found.state is FabricState.NOT_SUPPORTED


def test_lost_gpu_leaves_the_clique_to_the_others(machine):
    machine.lose(3)
    found = scan(machine)
    assert (found.state, found.clique_id) == (FabricState.COMPLETED, CLIQUE)
    assert "GPU 3" in found.message


def test_hung_gpu_leaves_the_clique_to_the_others(machine):
    machine.hang(0)
    assert scan(machine).state is FabricState.COMPLETED


def test_fabric_is_unset_while_no_gpu_answers(machine):
    for index in range(4):
        machine.lose(index)
    assert scan(machine).state is FabricState.UNSET


def test_unhealthy_links_are_reported(machine):
    machine.gpus[0].fabric = FakeFabric(health=2)
    found = scan(machine)
    assert found.state is FabricState.COMPLETED and "unhealthy" in found.message


def test_fabric_is_unset_without_a_driver(machine):
    machine.unload_driver()
    assert scan(machine).message == "the NVIDIA driver is not loaded"


@pytest.mark.sim
def test_nvml_adapter_reads_fabric_from_the_library(tmp_path: Path):
    root = SimRoot.create(tmp_path / "host", "gb200-nvl4")
    host = open_host(
        HostRoots(driver=root.path, dev=root.path / "dev", proc=root.proc, sys=root.sys)
    )
    try:
        found = fabric.scan(host, SystemClock())
        truth = root.profile.fabric
        assert found.clique_id == f"{truth.cluster_uuid}.{truth.clique_id}"
        assert found.driver_version == root.profile.driver_version
        root.set_gpu(1, fabric_state=2)
        assert fabric.scan(host, SystemClock()).state is FabricState.IN_PROGRESS
    finally:
        host.close()
        root.destroy()


@pytest.mark.sim
def test_nvml_adapter_reads_a_machine_without_fabric(tmp_path: Path):
    root = SimRoot.create(tmp_path / "host", "l4x2")
    host = open_host(
        HostRoots(driver=root.path, dev=root.path / "dev", proc=root.proc, sys=root.sys)
    )
    try:
        assert fabric.scan(host, SystemClock()).state is FabricState.NOT_SUPPORTED
    finally:
        host.close()
        root.destroy()


class TestWithPrevious:
    """The fabric after a scan without an answer."""

    KNOWN = Fabric(state=FabricState.COMPLETED, clique_id=CLIQUE, driver_version="580.1")
    SILENT = Fabric(message="nvml did not return in time", driver_version="580.1")

    def test_silent_driver_keeps_the_clique(self):
        found = fabric.with_previous(self.SILENT, self.KNOWN)
        assert (found.state, found.clique_id) == (FabricState.COMPLETED, CLIQUE)
        assert found.message == "nvml did not return in time"
        assert fabric.with_previous(self.KNOWN, found) == self.KNOWN, "the next answer counts"

    @pytest.mark.parametrize(
        "seen",
        [
            Fabric(message="the NVIDIA driver is not loaded"),
            Fabric(message="nvml did not return in time", driver_version="590.2"),
            Fabric(state=FabricState.FAILED, driver_version="580.1"),
            Fabric(state=FabricState.IN_PROGRESS, driver_version="580.1"),
        ],
    )
    def test_answer_or_other_driver_replaces_the_fabric_at_once(self, seen):
        assert fabric.with_previous(seen, self.KNOWN) == seen

    def test_silent_driver_without_previous_fabric_is_unset(self):
        assert fabric.with_previous(self.SILENT, None) == self.SILENT

    def test_hung_gpus_keep_the_node_in_its_clique(self, machine):
        before = scan(machine)
        for index in range(len(machine.gpus)):
            machine.hang(index)
        seen = scan(machine)
        assert seen.state is FabricState.UNSET
        assert fabric.with_previous(seen, before).clique_id == CLIQUE
