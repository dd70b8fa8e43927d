"""Servers and clients for the tests of the Kubernetes client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nvdra_core.kube.client import Client
from nvdra_core.kube.config import KubeConfig
from nvdra_core.kube.fake.server import FakeApiServer, FakeSettings
from nvdra_core.kube.retry import Backoff
from nvdra_core.kube.transport import TransportSettings

FAST = TransportSettings(
    request_timeout_s=5.0, attempt_timeout_s=2.0, backoff=Backoff(first_s=0.02, limit_s=0.2)
)


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
