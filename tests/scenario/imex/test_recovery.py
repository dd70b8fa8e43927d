"""GPU recovery actions (NVML) appear on the node, the pod and the ComputeDomain. (CD-L39)

Upstream does not read them: after an abrupt end of IMEX its domain is Ready while GPUs wait for a recovery.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from nvdra_cluster.decide.domain import events
from nvdra_cluster.decide.domain import status as domain_status
from nvdra_core.api.fabric import FabricState
from nvdra_core.runtime.clock import SystemClock
from nvdra_node.computedomain import slices
from nvdra_node.computedomain.supervisor_client import parse_state
from nvdra_node.host.host import open_host
from nvdra_node.host.ports import HostRoots
from nvdra_node.imex.service import node_state
from nvdra_node.imex.sources import fabric
from nvdra_node.kubeletplugin.driver import Health
from tests.beds.memory.imex_node import FABRIC, ImexNode
from tests.fakes.clock import FakeClock
from tests.fakes.host.host import fake_host
from tests.fakes.host.machine import FakeFabric, FakeMachine, fake_gpus
from tests.sim.api import SimRoot
from tests.unit.decide import views

RECOVER_IMEX_DOMAIN = 5
ACTION = "GPU-1 needs recovery action 5: delete the pods"
SICK = replace(FABRIC, recovery=ACTION)


@pytest.fixture
def node() -> ImexNode:
    made = ImexNode()
    made.serve()
    return made


@pytest.mark.parametrize(
    ("action", "remedy"),
    [
        (1, "--gpu-reset"),
        (2, "reboot this node"),
        (3, "reach each other's memory"),
        (4, "drain this node"),
        (RECOVER_IMEX_DOMAIN, "delete the pods of its ComputeDomain"),
        (6, "drain this node"),
        (7, "reboot this machine"),
        (99, "NVIDIA's documentation"),
    ],
)
def test_recovery_action_names_gpu_and_remedy(action, remedy):
    machine = FakeMachine(fake_gpus(4))
    for gpu in machine.gpus:
        gpu.fabric = FakeFabric()
    machine.gpus[2].fabric = FakeFabric(recovery_action=action)
    clock = FakeClock()
    found = fabric.scan(fake_host(machine, clock), clock)
    assert (found.state, found.clique_id) == (FabricState.COMPLETED, FABRIC.clique_id)
    assert found.recovery.startswith(f"{machine.gpus[2].uuid} needs recovery action {action}")
    assert remedy in found.recovery and found.recovery in found.message
    machine.gpus[2].fabric = FakeFabric()
    assert fabric.scan(fake_host(machine, clock), clock).recovery == ""


@pytest.mark.sim
def test_recovery_action_is_read_from_the_library(tmp_path: Path):
    root = SimRoot.create(tmp_path / "host", "gb200-nvl4")
    host = open_host(
        HostRoots(driver=root.path, dev=root.path / "dev", proc=root.proc, sys=root.sys)
    )
    try:
        assert fabric.scan(host, SystemClock()).recovery == ""
        root.set_gpu(1, recovery_action=RECOVER_IMEX_DOMAIN)
        found = fabric.scan(host, SystemClock())
        assert "IMEX domain must be recovered" in found.recovery
        assert found.recovery.count("needs recovery") == 1 and found.state is FabricState.COMPLETED
    finally:
        host.close()
        root.destroy()


def test_recovery_is_reported_and_claims_go_on(node):
    domain = node.domain_status()
    assert (domain.ready, domain.reason) == (True, "")
    node.supervisor.set_fabric(SICK)
    node.reconcile()
    domain = node.domain_status()
    assert (domain.ready, domain.reason, domain.message) == (True, "GpuRecovery", ACTION)
    assert node.join("c2").readiness.is_ready and node.daemon.history == ["start"]
    node.supervisor.set_fabric(FABRIC)
    node.reconcile()
    assert node.domain_status().reason == ""


def test_cause_of_waiting_precedes_recovery(node):
    node.supervisor.set_fabric(SICK)
    node.daemon.log_lines = "Xid 154"
    node.daemon.die()
    node.reconcile()
    domain = node.domain_status()
    assert (domain.ready, domain.reason) == (False, "ImexFailed")


def test_recovery_makes_the_device_unhealthy(node):
    node.supervisor.set_fabric(SICK)
    node.reconcile()
    state = node_state(node.supervisor.snapshot, channel_count=2048)
    pool = slices.build(parse_state(state), is_shared=False)
    [health] = pool.health
    assert (health.health, ACTION in health.message) == (Health.UNHEALTHY, True)
    assert len(pool.devices) == 1, "the channel stays: claims may start"


def test_recovery_degrades_the_domain_with_an_event(node):
    node.supervisor.set_fabric(SICK)
    node.reconcile()
    mine = node.domain_status()
    member = views.a_member(views.a_ready_node(reason=mine.reason, message=mine.message))
    snapshot = views.a_snapshot(members=(member,))
    found = domain_status.decide(snapshot, views.SETTINGS, views.NOW)
    conditions = {each.type: each for each in found.conditions}
    assert found.status.value == "Ready"
    degraded = conditions[domain_status.DEGRADED]
    assert (degraded.status, degraded.reason) == ("True", "GpuRecovery")
    assert ACTION in degraded.message
    bodies = [event.body for event in events.for_status(snapshot.domain, found, views.NOW)]
    assert [b["type"] for b in bodies if b["reason"] == "GpuRecovery"] == ["Warning"]
