"""Defects of upstream's GPU plugin that are ruled out by how parts fit together, and so have no home in one part's
tests. The rows of ``docs/parity/`` name them.
"""

from pathlib import Path

import pytest

from nvdra_core.errors import ConfigError
from nvdra_core.runtime.endpoint import Address
from nvdra_node import config
from nvdra_node.app.gpu import parse_gates
from nvdra_node.gpu.driver import GpuDriver
from nvdra_node.gpu.kinds.base import SliceSettings
from nvdra_node.gpu.kinds.nodes import DeviceNodes
from nvdra_node.host.ports import NodeStat
from nvdra_node.kubeletplugin.driver import Pool
from nvdra_node.kubeletplugin.slices import diff, layout
from tests.beds.memory.gpu_node import CTK, HOOK, LIBRARY, GpuNode, a_claim
from tests.beds.memory.gpu_objects import a_gpu
from tests.fakes.host.files import FakeFiles
from tests.fakes.host.host import fake_host
from tests.fakes.host.machine import GPU_IS_LOST, FakeMachine, fake_gpus

A_CARD = NodeStat(major=226, minor=1, mode=0o660, gid=44)


def settings(text: str = "", **flags: str) -> config.NodeConfig:
    return config.load(
        file_text=text, file_name="config.yaml", environment={}, flags=flags, host_name="node"
    )


def test_gpu_unhealthy_at_start_is_tainted_in_first_pool():
    """Upstream publishes without taints first, and may overwrite those that came early."""
    node = GpuNode(gpus=2)
    node.restart(scan=False)
    node.machine.fail(0, GPU_IS_LOST, "brand")
    pools = []
    driver = GpuDriver(node.registry, node.rescanner, node.gates, SliceSettings(taints=True))
    driver.subscribe(lambda: pools.append(driver.pool()))
    assert driver.pool().devices == ()
    node.rescanner.rescan_if_due()
    assert {device["name"]: device.get("taints") for device in pools[0].devices} == {
        "gpu-0": [{"key": "gpu.nvidia.com/gpu-lost", "effect": "NoSchedule"}],
        "gpu-1": None,
    }


def test_gpu_with_new_minor_is_prepared_with_new_node():
    """Upstream keeps the edits of a UUID for minutes, with the minor that it had."""
    node = GpuNode(gpus=2)
    node.prepare(a_claim("before", devices=("gpu-1",)))
    node.unprepare(a_claim("before", devices=("gpu-1",)))
    node.machine.gpus[1].minor = 7
    node.rescan()
    (prepared,) = node.prepare(a_claim("after", devices=("gpu-7",)))
    assert prepared.details["uuid"] == node.uuid(1)
    (device,) = node.cdi_spec("after")["devices"]
    (given,) = device["containerEdits"]["deviceNodes"]
    assert (given["path"], given["minor"]) == ("/dev/nvidia7", 7)


@pytest.mark.parametrize("root", ["/", "/run/nvidia/driver"])
def test_drm_links_are_right_under_any_driver_root(root: str):
    """Upstream rewrites paths of the host but not those in hooks, so its links keep the driver root."""
    machine = FakeMachine(fake_gpus(1))
    machine.nodes["/dev/dri/card1"] = A_CARD
    nodes = DeviceNodes(fake_host(machine).sysfs, Path(root) / "dev", HOOK)
    made = nodes.edits(0, a_gpu().pci_address)
    assert [node.path for node in made.device_nodes] == ["/dev/nvidia0", "/dev/dri/card1"]
    card = made.device_nodes[1]
    assert (card.host_path or card.path) == str(Path(root) / "dev/dri/card1")
    (hook,) = made.hooks
    assert hook.args[-1] == "../card1::/dev/dri/by-path/pci-0000:18:00.0-card"


def test_start_and_prepare_write_only_records_and_cdi():
    """Upstream copies NVIDIA's hook over the one that running containers may be executing."""
    files = FakeFiles()
    node = GpuNode(files=files)
    before = set(files.paths())
    node.restart()
    node.prepare(a_claim())
    written = set(files.paths()) - before
    assert written == {
        node.state / "claims" / "c1.json",
        node.state / "cdi-common.json",
        node.cdi_path(),
    }
    assert {HOOK, CTK, Path(LIBRARY)} <= before


def test_no_network_listener_by_default():
    assert settings().http_endpoint == ""
    chosen = settings("httpEndpoint: 127.0.0.1:8080").http_endpoint
    assert Address.parse(chosen) == Address("127.0.0.1", 8080)


@pytest.mark.parametrize("shares", ["memory", "unlimited", "4"])
def test_shares_without_gate_are_refused_at_start(shares: str):
    with pytest.raises(ConfigError, match="ConsumableShares"):
        parse_gates(settings(consumable_shares=shares))
    parse_gates(settings(consumable_shares=shares, feature_gates="ConsumableShares=true"))
    parse_gates(settings())


def test_upstream_slices_are_adopted_in_place():
    """A node that migrates loses no slice: watchers see one update, and no device is removed."""
    target = diff.Target(driver="gpu.nvidia.com", node="node", node_uid="n1")
    spec = {
        "driver": "gpu.nvidia.com",
        "nodeName": "node",
        "pool": {"name": "node", "generation": 3, "resourceSliceCount": 1},
        "devices": [{"name": "gpu-0", "attributes": {"type": {"string": "gpu"}}}],
    }
    metadata = {"name": "00000-gpu.nvidia.com-node-x7k2p", "resourceVersion": "7"}
    stored = {"metadata": metadata, "spec": spec}
    parts = layout.layout(Pool(devices=({"name": "gpu-0"},)), is_split=True)
    changes = diff.diff(target, parts, [stored])
    assert (changes.create, changes.delete, changes.generation) == ((), (), 3)
    ((_, updated),) = changes.update
    assert updated["metadata"]["name"] == metadata["name"]
