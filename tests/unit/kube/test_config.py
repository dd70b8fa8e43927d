"""A kubeconfig as it is read: every field that counts, and an error for what cannot be honoured."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nvdra_core.errors import ConfigError
from nvdra_node.kube.config import KubeConfig, parse_kubeconfig

SERVER = "https://10.0.0.1:6443"


def a_kubeconfig(
    cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [
            {"name": "there", "context": {"cluster": "there", "user": "me"}},
            {"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "ns"}},
        ],
        "clusters": [
            {"name": "here", "cluster": {"server": SERVER, **(cluster or {})}},
            {"name": "there", "cluster": {"server": "https://there"}},
        ],
        "users": [{"name": "me", "user": user or {}}],
    }


def parse(document: object, context: str = "") -> KubeConfig:
    return parse_kubeconfig(json.dumps(document), path="/etc/nvdra/kubeconfig", context=context)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_all_fields_are_read() -> None:
    cluster = {
        "certificate-authority-data": b64(b"CA"),
        "tls-server-name": "kubernetes",
        "proxy-url": "http://proxy:3128",
    }
    user = {"client-certificate-data": b64(b"C"), "client-key-data": b64(b"K"), "token": "t"}
    assert parse(a_kubeconfig(cluster, user)) == KubeConfig(
        server=SERVER,
        ca_data=b"CA",
        client_cert_data=b"C",
        client_key_data=b"K",
        token="t",
        tls_server_name="kubernetes",
        proxy_url="http://proxy:3128",
        namespace="ns",
    )


def test_yaml_and_json_kubeconfigs_are_equal(tmp_path: Path) -> None:
    document = a_kubeconfig(user={"token": "t"})
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(document))
    assert KubeConfig.load(str(path)) == parse(document)


def test_files_are_relative_to_the_kubeconfig() -> None:
    user = {"client-certificate": "pki/c.crt", "client-key": "/k.key", "tokenFile": "token"}
    config = parse(a_kubeconfig({"certificate-authority": "ca.crt"}, user))
    assert config.ca_file == "/etc/nvdra/ca.crt"
    assert config.client_cert_file == "/etc/nvdra/pki/c.crt"
    assert config.client_key_file == "/k.key"
    assert config.token_file == "/etc/nvdra/token"


def test_context_can_be_chosen() -> None:
    assert parse(a_kubeconfig(), context="there").server == "https://there"


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (a_kubeconfig({"insecure-skip-tls-verify": True}), "insecure-skip-tls-verify"),
        (a_kubeconfig(user={"exec": {"command": "aws"}}), "command that makes credentials"),
        (a_kubeconfig(user={"auth-provider": {"name": "gcp"}}), "legacy plugin"),
        (a_kubeconfig(user={"username": "u", "password": "p"}), "basic authentication"),
        (a_kubeconfig(user={"as": "root"}), "impersonation"),
        (a_kubeconfig({"certificate-authority-data": "*"}), "not base64"),
        (a_kubeconfig({"server": ""}), "not a URL"),
        (a_kubeconfig({"server": "https://h:port"}), "https://h:port"),
        (a_kubeconfig({"server": "http://10.0.0.1"}), "loopback only"),
        (a_kubeconfig(user={"client-certificate-data": b64(b"C")}), "together"),
        (a_kubeconfig(user={"client-key": "k"}), "no certificate"),
        (a_kubeconfig(user={"token": 5}), "token is not a string"),
        ({**a_kubeconfig(), "current-context": ""}, "no current-context"),
        ({**a_kubeconfig(), "clusters": None}, "no cluster named 'here'"),
        ({**a_kubeconfig(), "users": []}, "no user named 'me'"),
        ([], "not a mapping"),
    ],
)
def test_unsupported_kubeconfig_is_a_config_error(document: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        parse(document)


def test_broken_yaml_is_not_quoted() -> None:
    with pytest.raises(ConfigError, match="line 2") as caught:
        parse_kubeconfig("token: sesame\n  sesame: [}", path="/k")
    assert "sesame" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_unreadable_file_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="/nonexistent"):
        KubeConfig.load("/nonexistent")


def test_secrets_are_not_shown() -> None:
    config = KubeConfig(
        server=SERVER, token="sesame", client_key_data=b"sesame", client_cert_data=b"c"
    )
    assert "sesame" not in repr(config)
    proxied = KubeConfig(server=SERVER, proxy_url="http://u:sesame@p:1")
    assert "sesame" not in repr(proxied)
