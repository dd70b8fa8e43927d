"""Servers, in memory and real, and clients for the tests of the Kubernetes client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nvdra_core.kube.retry import Backoff
from nvdra_core.kube.transport import TransportSettings
from nvdra_node.kube.client import Client
from nvdra_node.kube.config import KubeConfig
from tests.beds.cluster import capability
from tests.beds.cluster.api import Cluster
from tests.beds.cluster.artifacts import programs
from tests.beds.cluster.control import wire
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings
from tests.lib.required import not_run

BRISK = Backoff(first_s=0.02, limit_s=0.2)
FAST = TransportSettings(request_timeout_s=60.0, attempt_timeout_s=30.0, backoff=BRISK)
"""Repeats soon, and has patience with a busy machine."""
ONCE = TransportSettings(
    request_timeout_s=60.0, attempt_timeout_s=60.0, backoff=Backoff(first_s=1e3, limit_s=1e3)
)
"""Tells the first failure, as no pause fits into the request's time."""


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        yield running


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[FakeApiServer]:
    with FakeApiServer(FakeSettings(tls_directory=tmp_path / "tls")) as running:
        yield running


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def make(config: KubeConfig, settings: TransportSettings = FAST) -> Client:
        clients.append(Client(config, settings=settings))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(server: FakeApiServer, connect: Callable[..., Client]) -> Client:
    return connect(server.config())


OFF_BY_DEFAULT = {
    "1.34": ("DRADeviceTaints", "DRAPartitionableDevices", "DRAConsumableCapacity"),
    "1.35": (
        "DRADeviceTaints",
        "DRADeviceTaintRules",
        "DRAPartitionableDevices",
        "DRAConsumableCapacity",
    ),
}
"""Gates that the rules below are about; the test cluster has them on, where a test does not say otherwise."""


@pytest.fixture(
    scope="class",
    params=["given"] if "NVDRA_TEST_KUBECONFIG" in os.environ else programs.KUBERNETES,
)
def kubeconfig(request: pytest.FixtureRequest) -> Iterator[str]:
    """An administrator's kubeconfig: the one given, or that of a cluster made for these tests."""
    if request.param == "given":
        yield os.environ["NVDRA_TEST_KUBECONFIG"]
        return
    if obstacle := capability.why_not():
        not_run(f"this machine cannot run a cluster: {obstacle}")
    gates = dict.fromkeys(OFF_BY_DEFAULT.get(request.param, ()), False)
    name = f"contract-{request.param.replace('.', '')}"
    with (
        Cluster.up(name, 1, request.param, feature_gates=gates) as cluster,
        wire.inside(cluster.layout.netns),
    ):
        yield str(cluster.layout.admin_kubeconfig)
