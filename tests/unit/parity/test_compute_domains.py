"""Defects of upstream's ComputeDomains that are ruled out by how parts fit together, and so have no home in one part's
tests. The rows of ``docs/parity/`` name them.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from nvdra_cluster import cli
from nvdra_core.gates import FeatureGates
from nvdra_node import config
from nvdra_node.app.imex import gates_of
from nvdra_node.computedomain import slices
from nvdra_node.computedomain.connection import SupervisorConnection
from nvdra_node.computedomain.model import NodeView
from tests.fakes.clock import FakeClock
from tests.fakes.supervisor import FakeSupervisor
from tests.unit.chart import helm

UNITS = Path(__file__).parents[3] / "systemd"
ROUNDS = 3000


def settings(text: str = "") -> config.NodeConfig:
    return config.load(
        file_text=text, file_name="config.yaml", environment={}, flags={}, host_name="node"
    )


def values_of(unit: str, key: str) -> list[str]:
    lines = (UNITS / f"{unit}.service").read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def test_concurrent_clique_read_is_old_or_new_value():
    """L25, D-21. Upstream reads a text that another thread is writing."""
    cliques = ("aaaa.1", "bbbb.2")
    views = [
        NodeView(fabric_state="Completed", cluster_uuid=c[:4], clique_id=c, channel_count=len(c))
        for c in cliques
    ]
    connection = SupervisorConnection(FakeSupervisor(), FakeClock())
    connection._take(views[0])
    stopping = threading.Event()
    seen: set[tuple[str, str]] = set()

    def read() -> None:
        while not stopping.is_set():
            [device] = slices.build(connection.view, is_shared=False).devices
            attributes = device["attributes"]
            seen.add((attributes["cliqueID"]["string"], attributes["clusterUUID"]["string"]))

    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # switch threads at nearly every step
    readers = [threading.Thread(target=read) for _ in range(2)]
    try:
        for reader in readers:
            reader.start()
        for number in range(ROUNDS):
            connection._take(views[number % 2])
    finally:
        stopping.set()
        for reader in readers:
            reader.join(60)
        sys.setswitchinterval(before_s)
    assert seen and seen <= {(clique, clique[:4]) for clique in cliques}


def test_imex_unit_opens_only_gpus_and_capabilities():
    """X4. Upstream's container has all GPUs, all management devices and every management program. Which of the GPUs'
    nodes NVIDIA's daemon could do without, only NVIDIA knows.
    """
    assert values_of("nvdra-imex", "DevicePolicy") == ["closed"]
    assert sorted(values_of("nvdra-imex", "DeviceAllow")) == [
        "char-195 rw",
        "char-nvidia rw",
        "char-nvidia-caps r",
        "char-nvidia-frontend rw",
        "char-nvidiactl rw",
    ]
    assert values_of("nvdra-imex", "CapabilityBoundingSet") == ["CAP_SYS_ADMIN CAP_IPC_LOCK"]
    assert values_of("nvdra-imex", "NoNewPrivileges") == ["yes"]


def test_supervisor_and_plugin_listen_only_if_configured():
    """X6. Upstream's health service takes connections from anywhere, without authentication."""
    found = settings()
    assert (found.compute_domain_http_endpoint, found.imex_http_endpoint) == ("", "")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the chart renders."""
    return helm.render(tmp_path_factory.mktemp("helm"))


def test_the_class_of_channels_is_upstreams(objects):
    """Templates of users name it, and it selects the one device that every node publishes."""
    [found] = [
        o
        for o in objects
        if o["kind"] == "DeviceClass" and "compute-domain" in o["metadata"]["name"]
    ]
    assert found["metadata"]["name"] == "compute-domain-default-channel.nvidia.com"
    [selector] = found["spec"]["selectors"]
    of_device = "device.attributes['compute-domain.nvidia.com']"
    assert selector["cel"]["expression"].split(" && ") == [
        "device.driver == 'compute-domain.nvidia.com'",
        f"{of_device}.type == 'channel'",
        f"{of_device}.id == 0",
    ]
    [device] = slices.build(NodeView(fabric_state="NotSupported"), is_shared=False).devices
    assert device["attributes"] == {"type": {"string": "channel"}, "id": {"int": 0}}


@pytest.fixture(scope="module")
def roles(objects: list[dict[str, Any]]) -> list[dict[str, list[str]]]:
    """All rules that a node has, in the whole cluster."""
    found = [
        o for o in objects if o["kind"] == "ClusterRole" and "nvdra-node" in o["metadata"]["name"]
    ]
    assert found
    return [rule for role in found for rule in role["rules"]]


def test_node_has_no_node_write_and_no_claim_list(roles):
    """X2. What RBAC leaves open (which slices, which claim's status) policies pin: tests/e2e/gpu/test_identity.py."""
    allowed = {
        (resource, verb)
        for rule in roles
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert {verb for resource, verb in allowed if resource == "nodes"} == {"get"}
    assert {verb for resource, verb in allowed if resource == "resourceclaims"} == {"get"}
    assert not {r for r, _ in allowed if r.startswith(("pods", "secrets", "daemonsets"))}
    writes = {"create", "update", "patch", "delete"}
    assert {r for r, verb in allowed if verb in writes} == {
        "resourceslices", "resourceclaims/status", "fabricnodes/status", "events",
    }  # fmt: skip


@pytest.mark.parametrize("gates", ["ComputeDomainCliques=false", "ComputeDomainCliques=true"])
def test_clique_gate_is_accepted_by_node_and_controller(gates):
    """What it chooses between is made here in any case: cliques and the list in the domain's status."""
    assert FeatureGates.parse(gates)
    gates_of(settings(f"featureGates: {{{gates.replace('=', ': ')}}}"))
    values = cli.read([f"--feature-gates={gates}"], {"POD_NAME": "one"})
    assert cli.settings(values, "nvdra").fabric
