"""HTTPS: the server is verified, credentials follow their files, and nothing secret is ever shown."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nvdra_core.errors import ApiError, ConfigError
from nvdra_core.kube.resources import NAMESPACES, SLICES
from nvdra_node.kube.client import Client
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings
from tests.lib.pki import StoredAuthority
from tests.lib.waits import until
from tests.service.kube.conftest import ONCE
from tests.service.kube.following import Follower
from tests.service.kube.objects import a_slice

Connect = Callable[..., Client]


def read(client: Client) -> None:
    client.get(NAMESPACES, "default")


def replace(path: Path, data: bytes) -> None:
    """As Ansible and the kubelet do: a new file under the old name."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    new.replace(path)


def test_server_of_another_authority_is_refused(
    tls_server: FakeApiServer, connect: Connect, tmp_path: Path
) -> None:
    other = StoredAuthority(tmp_path / "other")
    with pytest.raises(ApiError, match="certificate is not trusted"):
        read(connect(tls_server.config(ca_file=str(other.certificate_path)), ONCE))


def test_server_of_another_name_is_refused(tls_server: FakeApiServer, connect: Connect) -> None:
    with pytest.raises(ApiError, match="certificate is not trusted"):
        read(connect(tls_server.config(tls_server_name="kubernetes.example.com"), ONCE))


def test_tls_server_name_overrides_the_host(tls_server: FakeApiServer, connect: Connect) -> None:
    read(connect(tls_server.config(tls_server_name="localhost")))


def test_kubeconfig_file_is_enough(
    tls_server: FakeApiServer, connect: Connect, tmp_path: Path
) -> None:
    path = tls_server.write_kubeconfig(tmp_path / "config")
    read(connect(type(tls_server.config()).load(str(path))))


def test_inline_client_certificate_is_used(connect: Connect, tmp_path: Path) -> None:
    with enforcing(tmp_path) as server:
        assert server.authority
        certificate, key = server.authority.issue_client("admin", ("system:masters",))
        inline = {
            "client_cert_data": certificate.read_bytes(),
            "client_key_data": key.read_bytes(),
            "token": "",
        }
        read(connect(server.config(**inline)))
        assert server.api.log.lines()[-1].user == "admin"


def enforcing(tmp_path: Path) -> FakeApiServer:
    return FakeApiServer(FakeSettings(tls_directory=tmp_path / "tls", is_auth_enforced=True))


@pytest.fixture
def kubelet_file(tmp_path: Path) -> Path:
    """A link to a file with certificate and key, as the kubelet keeps it."""
    return tmp_path / "kubelet-client-current.pem"


def issue(server: FakeApiServer, link: Path, user: str) -> None:
    assert server.authority
    certificate, key = server.authority.issue_client(user, ("system:masters",), stem=user)
    both = link.with_name(f"kubelet-client-{user}.pem")
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    new = link.with_name("new-link")
    new.symlink_to(both)
    os.replace(new, link)


def test_rotated_client_certificate_is_used_for_new_requests(
    connect: Connect, tmp_path: Path, kubelet_file: Path
) -> None:
    with enforcing(tmp_path) as server:
        issue(server, kubelet_file, "first")
        client = connect(server.config(client_cert_file=str(kubelet_file)))
        read(client)
        issue(server, kubelet_file, "second")
        assert client.transport.credentials.refresh()
        read(client)
        users = [line.user for line in server.api.log.lines()]
        assert users == ["first", "second"]


def test_request_under_way_survives_the_rotation(
    connect: Connect, tmp_path: Path, kubelet_file: Path
) -> None:
    with enforcing(tmp_path) as server:
        issue(server, kubelet_file, "first")
        client = connect(server.config(client_cert_file=str(kubelet_file)))
        server.api.faults.add(Fault(action="slow", delay_s=0.5))
        thread = threading.Thread(target=read, args=(client,))
        thread.start()
        time.sleep(0.1)
        issue(server, kubelet_file, "second")
        client.transport.credentials.refresh()
        read(client)
        thread.join()
        assert server.api.log.count("get", "namespaces", 200) == 2
        assert server.api.log.count() == 2


def test_watch_survives_the_rotation(connect: Connect, tmp_path: Path, kubelet_file: Path) -> None:
    with enforcing(tmp_path) as server:
        issue(server, kubelet_file, "first")
        client = connect(server.config(client_cert_file=str(kubelet_file)))
        follower = Follower(client, version=client.list(SLICES).resource_version)
        issue(server, kubelet_file, "second")
        client.transport.credentials.refresh()
        server.add(a_slice("a"))
        follower.wait_for("PUT a")
        follower.stop()
        assert follower.seen == ["PUT a"]


def test_half_written_certificate_keeps_the_old_one(
    connect: Connect, tmp_path: Path, kubelet_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with enforcing(tmp_path) as server:
        issue(server, kubelet_file, "first")
        client = connect(server.config(client_cert_file=str(kubelet_file)))
        whole = kubelet_file.read_bytes()
        kubelet_file.write_bytes(whole[: len(whole) // 2])
        assert not client.transport.credentials.refresh()
        assert not client.transport.credentials.refresh()
        read(client)
        assert len([r for r in caplog.records if "cannot be used yet" in r.getMessage()]) == 1
        kubelet_file.write_bytes(whole)
        assert client.transport.credentials.refresh()
        read(client)


def test_certificate_and_key_files_may_rotate_separately(connect: Connect, tmp_path: Path) -> None:
    with enforcing(tmp_path) as server:
        assert server.authority
        certificate, key = server.authority.issue_client("first", ("system:masters",), stem="c")
        config = server.config(client_cert_file=str(certificate), client_key_file=str(key))
        client = connect(config)
        new = server.authority.issue_client("second", ("system:masters",), stem="n")
        replace(certificate, new[0].read_bytes())
        assert not client.transport.credentials.refresh()
        read(client)
        replace(key, new[1].read_bytes())
        assert client.transport.credentials.refresh()
        read(client)
        assert [line.user for line in server.api.log.lines()] == ["first", "second"]


def test_rotated_server_authority_is_trusted(
    tls_server: FakeApiServer, connect: Connect, tmp_path: Path
) -> None:
    assert tls_server.authority
    bundle = tmp_path / "ca.crt"
    bundle.write_bytes(tls_server.authority.certificate_path.read_bytes())
    client = connect(tls_server.config(ca_file=str(bundle)))
    read(client)
    tls_server.authority = StoredAuthority(tmp_path / "new")
    tls_server.use_new_certificate()
    tls_server.end_connections()
    replace(bundle, bundle.read_bytes() + tls_server.authority.certificate_path.read_bytes())
    until(lambda: client.transport.credentials.current().generation == 2)
    read(client)


def test_rotated_token_keeps_the_connection(connect: Connect, tmp_path: Path) -> None:
    with enforcing(tmp_path) as server:
        token_file = tmp_path / "token"
        token_file.write_text(server.token_for("first", "system:masters") + "\n")
        client = connect(server.config(token_file=str(token_file)))
        read(client)
        replace(token_file, server.token_for("second", "system:masters").encode())
        until(client.transport.credentials.refresh)
        read(client)
        assert [line.user for line in server.api.log.lines()] == ["first", "second"]


def test_expired_token_is_read_again_at_once(connect: Connect, tmp_path: Path) -> None:
    with enforcing(tmp_path) as server:
        token_file = tmp_path / "token"
        old = server.token_for("first", "system:masters")
        token_file.write_text(old)
        client = connect(server.config(token_file=str(token_file)))
        read(client)
        replace(token_file, server.token_for("second", "system:masters").encode())
        server.api.authenticator.remove_token(old)
        read(client)
        assert server.api.log.lines()[-1].user == "second"


@pytest.mark.parametrize("content", ["", "\n", "half.a-token", "two\nlines.of.it"])
def test_half_written_token_keeps_the_old_one(
    connect: Connect, tmp_path: Path, content: str
) -> None:
    with enforcing(tmp_path) as server:
        token_file = tmp_path / "token"
        token_file.write_text(server.token_for("first", "system:masters"))
        client = connect(server.config(token_file=str(token_file)))
        token_file.write_text(content)
        assert not client.transport.credentials.refresh()
        read(client)


def test_wrong_token_is_unauthorized(connect: Connect, tmp_path: Path) -> None:
    with enforcing(tmp_path) as server:
        with pytest.raises(ApiError) as caught:
            read(connect(server.config(token="wrong")))
        assert (caught.value.status, caught.value.api_reason) == (401, "Unauthorized")
        assert "wrong" not in str(caught.value)


def test_missing_files_are_a_config_error(tls_server: FakeApiServer) -> None:
    for name in ("ca_file", "token_file", "client_cert_file"):
        with pytest.raises(ConfigError):
            Client(tls_server.config(**{name: "/nonexistent"}))


def test_secrets_are_in_no_repr(connect: Connect, tls_server: FakeApiServer) -> None:
    client = connect(tls_server.config(token="sesame"))
    shown = repr(tls_server.config(token="sesame")) + repr(client.transport.credentials.current())
    assert "sesame" not in shown
