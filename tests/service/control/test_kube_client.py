"""The client on the ``kubernetes`` package: configuration, credentials, TLS, proxies on a fake server."""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from kubernetes.client import Configuration
from kubernetes.config import ConfigException

from nvdra_cluster.kube import config
from nvdra_cluster.kube.client import KubernetesClient
from nvdra_core.errors import ApiError, ConfigError
from nvdra_core.kube.resources import NODES
from nvdra_core.kube.retry import Backoff
from nvdra_core.kube.transport import TransportSettings
from nvdra_core.runtime.clock import Deadline, SystemClock
from tests.beds.services.replica import FAST, access_of
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings
from tests.lib.pki import StoredAuthority
from tests.lib.waits import until

CLOCK = SystemClock()
ONCE = TransportSettings(backoff=Backoff(first_s=1e3, limit_s=1e3))
"""No pause fits into the time of a request."""
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


def read_node(access: config.AccessConfig, settings: TransportSettings = FAST) -> str:
    client = KubernetesClient(access, CLOCK, settings)
    try:
        return str(client.get(NODES, "a")["metadata"]["name"])
    finally:
        client.close()


def test_kubeconfig_gives_ca_token_and_namespace(guarded: FakeApiServer, tmp_path: Path):
    token = guarded.token_for("admin", "system:masters")
    access = config.from_kubeconfig(kubeconfig(guarded, tmp_path / "k", {"token": token}))
    assert access.namespace == "drivers"
    assert read_node(access) == "a"


def exec_user(
    fake: FakeApiServer, directory: Path, code: str = "", **status: str
) -> dict[str, Any]:
    """A user of a kubeconfig with an exec plugin that runs ``code`` and gives the administrator's token."""
    version = "client.authentication.k8s.io/v1"
    status = {"token": fake.token_for("admin", "system:masters"), **status}
    answer = {"apiVersion": version, "kind": "ExecCredential", "status": status}
    (directory / "plugin.py").write_text(f"{code}\nprint({json.dumps(answer)!r})\n")
    plugin = {
        "apiVersion": version,
        "command": sys.executable,
        "args": [str(directory / "plugin.py")],
        "interactiveMode": "Never",
    }
    return {"exec": plugin}


def soon() -> str:
    """An expiry for which the package runs the plugin again at once: less than five minutes."""
    return (datetime.now(timezone.utc) + timedelta(minutes=2)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_exec_plugin_gives_token(guarded: FakeApiServer, tmp_path: Path):
    path = kubeconfig(guarded, tmp_path / "k", exec_user(guarded, tmp_path))
    assert read_node(config.from_kubeconfig(path)) == "a"


def test_expiring_exec_credential_is_renewed_at_intervals(guarded: FakeApiServer, tmp_path: Path):
    runs = tmp_path / "runs"
    user = exec_user(
        guarded, tmp_path, f"open({str(runs)!r}, 'a').write('x')", expirationTimestamp=soon()
    )
    access = config.from_kubeconfig(kubeconfig(guarded, tmp_path / "k", user))
    client = KubernetesClient(access, CLOCK, FAST)
    before = len(runs.read_text())
    for _ in range(10):
        client.get(NODES, "a")
    client.close()
    assert len(runs.read_text()) - before <= 2


def test_hanging_exec_plugin_delays_no_request(guarded: FakeApiServer, tmp_path: Path):
    """A write that would be late is not sent, others use the credential at hand."""
    hang = tmp_path / "hang"
    code = f"import os, time\nwhile os.path.exists({str(hang)!r}): time.sleep(0.1)"
    user = exec_user(guarded, tmp_path, code, expirationTimestamp=soon())
    access = config.from_kubeconfig(kubeconfig(guarded, tmp_path / "k", user))
    client = KubernetesClient(access, CLOCK, FAST)
    hang.touch()
    threading.Timer(8.0, hang.unlink).start()
    body = {**NODE, "metadata": {"name": "b"}}
    with pytest.raises(ApiError, match="credentials"):
        client.create(NODES, body, deadline=Deadline(1.0, CLOCK))
    assert guarded.api.log.count("create", "nodes") == 0
    began_s = CLOCK.monotonic()
    client.get(NODES, "a")
    client.close()
    assert CLOCK.monotonic() - began_s < 4.0


def test_line_end_of_token_file_is_ignored(guarded: FakeApiServer, tmp_path: Path):
    token_file = tmp_path / "token"
    token_file.write_text(guarded.token_for("admin", "system:masters") + "\n")
    path = kubeconfig(guarded, tmp_path / "k", {"tokenFile": str(token_file)})
    assert read_node(config.from_kubeconfig(path)) == "a"


def test_malformed_token_is_an_api_error(server: FakeApiServer, tmp_path: Path):
    path = kubeconfig(server, tmp_path / "k", {"token": "two\nlines"})
    client = KubernetesClient(config.from_kubeconfig(path), CLOCK, FAST)
    with pytest.raises(ApiError, match="credentials"):
        client.get(NODES, "a", deadline=Deadline(0.2, CLOCK))
    client.close()


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


def test_rotated_ca_file_is_read_after_a_tls_error(guarded: FakeApiServer, tmp_path: Path):
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(StoredAuthority(tmp_path / "other").certificate_path.read_bytes())
    token = guarded.token_for("admin", "system:masters")
    path = kubeconfig(
        guarded, tmp_path / "k", {"token": token}, **{"certificate-authority": str(ca_file)}
    )
    client = KubernetesClient(config.from_kubeconfig(path), CLOCK, ONCE)
    with pytest.raises(ApiError, match="certificate verify failed"):
        client.get(NODES, "a", deadline=Deadline(1.0, CLOCK))
    ca_file.write_bytes(Path(guarded.config().ca_file).read_bytes())
    until(lambda: is_answered(client))
    client.close()


def is_answered(client: KubernetesClient) -> bool:
    try:
        client.get(NODES, "a", deadline=Deadline(1.0, CLOCK))
    except ApiError:
        return False
    return True


def test_credentials_of_a_proxy_url_are_sent(guarded: FakeApiServer, tmp_path: Path):
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            with listening.accept()[0] as sock:
                heads.append(sock.recv(65536))
                sock.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        proxy = f"http://me:pass%40word@127.0.0.1:{listening.getsockname()[1]}"
        path = kubeconfig(guarded, tmp_path / "k", {"token": "t"}, **{"proxy-url": proxy})
        with pytest.raises(ApiError):
            read_node(config.from_kubeconfig(path), ONCE)
        thread.join()
    assert b"Basic " + base64.b64encode(b"me:pass@word") in heads[0]


def test_loopback_is_reached_without_proxy_of_the_environment(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert read_node(access_of(server), ONCE) == "a"


class Tokenless(Configuration):
    """Of a pod whose token file is empty."""

    def get_api_key_with_prefix(self, identifier: str, alias: str | None = None) -> str | None:
        raise ConfigException("Token file exists but empty.")


def test_unreadable_token_is_an_api_error(server: FakeApiServer):
    access = config.AccessConfig(lambda: Tokenless(host=server.config().server))
    client = KubernetesClient(access, CLOCK, FAST)
    with pytest.raises(ApiError, match="Token file"):
        client.get(NODES, "a", deadline=Deadline(0.2, CLOCK))
    client.close()


def test_pod_uses_its_service_account(guarded: FakeApiServer, tmp_path: Path):
    assert guarded.authority is not None
    token = guarded.token_for("admin", "system:masters")
    ca = guarded.authority.certificate_path.read_text()
    for name, text in (("token", token), ("ca.crt", ca), ("namespace", "drivers\n")):
        (tmp_path / name).write_text(text)
    url = urlsplit(guarded.url)
    environment = {
        "KUBERNETES_SERVICE_HOST": str(url.hostname),
        "KUBERNETES_SERVICE_PORT": str(url.port),
    }
    access = config.in_cluster(environment, tmp_path)
    assert (access.namespace, read_node(access)) == ("drivers", "a")


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


def test_impersonation_is_refused(server: FakeApiServer, tmp_path: Path):
    path = kubeconfig(server, tmp_path / "k", {"token": "t", "as": "viewer"})
    with pytest.raises(ConfigError, match="impersonation"):
        config.from_kubeconfig(path)


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
        read_node(config.from_kubeconfig(path), ONCE)
