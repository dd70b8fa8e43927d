"""Credentials of one cluster: its authority, the key of ServiceAccount tokens, and kubeconfig files."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.lib.pki import StoredAuthority, key_pem


def create_authority(directory: Path) -> StoredAuthority:
    """Write the authority and the key pair that signs ServiceAccount tokens (sa.key, sa.pub)."""
    authority = StoredAuthority(directory, "nvdra-test-cluster")
    signer = ec.generate_private_key(ec.SECP256R1())
    (directory / "sa.key").touch(mode=0o600)
    (directory / "sa.key").write_bytes(key_pem(signer))
    (directory / "sa.pub").write_bytes(
        signer.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return authority


def kubeconfig(directory: Path, file: str, server: str) -> str:
    """Return a kubeconfig (JSON, which is YAML) with the key pair FILE inlined, for the API server at that URL."""

    def inline(name: str) -> str:
        return base64.b64encode((directory / name).read_bytes()).decode()

    cluster = {"server": server, "certificate-authority-data": inline("ca.crt")}
    user = {
        "client-certificate-data": inline(f"{file}.crt"),
        "client-key-data": inline(f"{file}.key"),
    }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": file, "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": file}}],
        "current-context": "test",
    }
    return json.dumps(document, indent=1)
