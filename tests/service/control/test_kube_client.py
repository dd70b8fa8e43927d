"""The client on the ``kubernetes`` package: configuration, credentials, TLS, deadlines and watches on a fake server."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nvdra_cluster.kube import config
from nvdra_cluster.kube.client import KubernetesClient
from nvdra_core.errors import ApiError, ConfigError
from nvdra_core.kube.errors import ClosedError
from nvdra_core.kube.resources import EVERYTHING, NODES
from nvdra_core.runtime.clock import Deadline, SystemClock
from tests.beds.services.replica import FAST, access_of
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings

CLOCK = SystemClock()
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}}


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        running.add(NODE)
        yield running


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[FakeApiServer]:
    settings = FakeSettings(is_auth_enforced=True, tls_directory=tmp_path / "tls")
    with FakeApiServer(settings) as running:
        running.add(NODE)
        yield running


def kubeconfig(fake: FakeApiServer, path: Path, user: dict[str, Any], **cluster: Any) -> str:
    """A kubeconfig for the server with another user and changed cluster fields."""
    fake.write_kubeconfig(path)
    document = yaml.safe_load(path.read_text())
    document["users"][0]["user"] = user
    document["clusters"][0]["cluster"] |= cluster
    document["contexts"][0]["context"]["namespace"] = "drivers"
    path.write_text(json.dumps(document))
    return str(path)


def read_node(access: config.AccessConfig) -> str:
    client = KubernetesClient(access, CLOCK, FAST)
    try:
        return str(client.get(NODES, "a")["metadata"]["name"])
    finally:
        client.close()


def test_kubeconfig_gives_ca_token_and_namespace(guarded: FakeApiServer, tmp_path: Path):
    token = guarded.token_for("admin", "system:masters")
    access = config.from_kubeconfig(kubeconfig(guarded, tmp_path / "k", {"token": token}))
    assert access.namespace == "drivers"
    assert read_node(access) == "a"


def test_exec_plugin_gives_token(guarded: FakeApiServer, tmp_path: Path):
    status = {"token": guarded.token_for("admin", "system:masters")}
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    (tmp_path / "plugin.py").write_text(f"print('''{json.dumps({**answer, 'status': status})}''')")
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": [str(tmp_path / "plugin.py")],
        "interactiveMode": "Never",
    }
    path = kubeconfig(guarded, tmp_path / "k", {"exec": plugin})
    assert read_node(config.from_kubeconfig(path)) == "a"


def test_rotated_token_file_is_read_after_401(guarded: FakeApiServer, tmp_path: Path):
    token_file = tmp_path / "token"
    token_file.write_text("expired")
    path = kubeconfig(guarded, tmp_path / "k", {"tokenFile": str(token_file)})
    client = KubernetesClient(config.from_kubeconfig(path), CLOCK, FAST)
    with pytest.raises(ApiError) as raised:
        client.get(NODES, "a")
    assert raised.value.status == 401
    token_file.write_text(guarded.token_for("admin", "system:masters"))
    assert client.get(NODES, "a")["metadata"]["name"] == "a"
    client.close()


@pytest.mark.parametrize(
    ("cluster", "text"),
    [
        ({"insecure-skip-tls-verify": True}, "insecure-skip-tls-verify"),
        ({"server": "http://192.0.2.1:8080"}, "loopback only"),
    ],
)
def test_unsafe_kubeconfig_is_refused(
    server: FakeApiServer, tmp_path: Path, cluster: dict[str, Any], text: str
):
    with pytest.raises(ConfigError, match=text):
        config.from_kubeconfig(kubeconfig(server, tmp_path / "k", {"token": "t"}, **cluster))


@pytest.mark.parametrize("content", ["", "no: [yaml", "{}"])
def test_malformed_kubeconfig_is_config_error(tmp_path: Path, content: str):
    path = tmp_path / "k"
    path.write_text(content)
    with pytest.raises(ConfigError, match=str(path)):
        config.from_kubeconfig(str(path))


def test_unknown_ca_is_refused(guarded: FakeApiServer, tmp_path: Path):
    path = kubeconfig(guarded, tmp_path / "k", {"token": "t"})
    document = yaml.safe_load(Path(path).read_text())
    del document["clusters"][0]["cluster"]["certificate-authority"]
    Path(path).write_text(json.dumps(document))
    with pytest.raises(ApiError, match="certificate verify failed"):
        read_node(config.from_kubeconfig(path))


def test_failed_attempts_are_repeated_within_deadline(server: FakeApiServer):
    server.api.faults.add(Fault(verb="get", code=503, count=2))
    assert read_node(access_of(server)) == "a"


def test_silent_server_ends_with_deadline(server: FakeApiServer):
    server.api.faults.add(Fault(verb="get", action="hang", count=0))
    client = KubernetesClient(access_of(server), CLOCK, FAST)
    began_s = CLOCK.monotonic()
    with pytest.raises(ApiError) as raised:
        client.get(NODES, "a", deadline=Deadline(0.5, CLOCK))
    assert (raised.value.status, CLOCK.monotonic() - began_s < 5.0) == (0, True)
    server.api.faults.clear()
    client.close()


def test_closed_client_refuses_requests(server: FakeApiServer):
    client = KubernetesClient(access_of(server), CLOCK, FAST)
    client.close()
    with pytest.raises(ClosedError):
        client.get(NODES, "a")


def test_cancel_ends_quiet_watch(server: FakeApiServer):
    client = KubernetesClient(access_of(server), CLOCK, FAST)
    stream = client.list_watch(NODES, "", EVERYTHING).watch({"resourceVersion": "0"}, 60.0)
    stream.open()
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.extend(event.type for event in stream))
    thread.start()
    stream.cancel()
    thread.join(10.0)
    assert not thread.is_alive()
    stream.close()
    client.close()
