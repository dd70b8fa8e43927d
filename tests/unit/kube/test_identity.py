"""The Node that a credential is of: tokens and client certificates, whole and broken."""

from __future__ import annotations

import base64
import datetime
import json
import warnings
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nvdra_node.kube.config import KubeConfig
from nvdra_node.kube.identity import node_of

SERVER = "https://10.0.0.1:6443"
LONG_NAME = "tray-07." + "r" * 160 + ".example"


def common_name(user: str) -> x509.NameAttribute[str]:
    """Kubernetes allows more than the 64 characters of X.520, which the library warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x509.NameAttribute(NameOID.COMMON_NAME, user, _validate=False)


def certificate(user: str) -> bytes:
    """A self-signed client certificate as kubelets have it, its key before it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            common_name(user),
        ]
    )
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return secret + made.public_bytes(serialization.Encoding.PEM)


def token(node: dict[str, str] | None) -> str:
    facts = {
        "iat": 0,
        "exp": 100,
        "kubernetes.io": {
            "namespace": "nvdra",
            "serviceaccount": {"name": "node"},
            **({"node": node} if node else {}),
        },
    }
    payload = base64.urlsafe_b64encode(json.dumps(facts).encode()).decode().rstrip("=")
    return f"h.{payload}.s"


@pytest.mark.parametrize("name", ["tray-07", "tray-07.rack-1.example", LONG_NAME])
def test_kubelet_certificate_names_its_node(tmp_path: Path, name: str):
    path = tmp_path / "kubelet-client-current.pem"
    path.write_bytes(certificate(f"system:node:{name}"))
    assert node_of(KubeConfig(server=SERVER, client_cert_file=str(path))) == name
    pem = path.read_bytes()
    assert node_of(KubeConfig(server=SERVER, client_cert_data=pem, client_key_data=pem)) == name


def test_token_bound_to_node_names_that_node(tmp_path: Path):
    path = tmp_path / "token"
    path.write_text(token({"name": "tray-07", "uid": "1"}) + "\n")
    assert node_of(KubeConfig(server=SERVER, token_file=str(path))) == "tray-07"
    assert node_of(KubeConfig(server=SERVER, token=path.read_text())) == "tray-07"


@pytest.mark.parametrize(
    "config",
    [
        KubeConfig(server=SERVER),
        KubeConfig(server=SERVER, token=token(None)),
        KubeConfig(server=SERVER, token="opaque"),
        KubeConfig(server=SERVER, token_file="/nowhere/token"),
        KubeConfig(server=SERVER, client_cert_file="/nowhere/pem"),
        KubeConfig(server=SERVER, client_cert_data=b"no PEM", client_key_data=b"k"),
        KubeConfig(
            server=SERVER,
            client_cert_data=certificate("kubernetes-admin"),
            client_key_data=b"k",
        ),
    ],
    ids=["none", "unbound", "opaque", "no-token", "no-file", "not-pem", "not-a-node"],
)
def test_credential_without_a_node_names_none(config: KubeConfig):
    assert node_of(config) == ""
