"""Address of the API server and credentials of the process, from a kubeconfig. Read once at start.

Unsupported settings are a ConfigError: an unverified server, exec commands, legacy plugins.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from nvdra_core.errors import ConfigError
from nvdra_core.kube.transport import LOOPBACK

UNSUPPORTED_USER_KEYS = {
    "exec": "a command that makes credentials; give a token file or a client certificate",
    "auth-provider": "a legacy plugin; give a token file or a client certificate",
    "username": "basic authentication, which Kubernetes no longer has",
    "password": "basic authentication, which Kubernetes no longer has",
    "as": "impersonation; give credentials of the node's own identity",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeConfig:
    """One API server and one identity. Files win over inline data; all are optional but ``server``."""

    server: str
    """``https://host[:port][/prefix]``; plain ``http`` only on loopback."""

    ca_file: str = ""
    ca_data: bytes = field(default=b"", repr=False)
    """PEM. Neither: the machine's own trust store."""

    token_file: str = ""
    token: str = field(default="", repr=False)
    client_cert_file: str = ""
    client_key_file: str = ""
    """Empty: the key is in ``client_cert_file`` (the kubelet's kubelet-client-current.pem is such a file)."""

    client_cert_data: bytes = field(default=b"", repr=False)
    client_key_data: bytes = field(default=b"", repr=False)
    tls_server_name: str = ""
    """The name the server's certificate must carry; empty: the host in ``server``."""

    proxy_url: str = field(default="", repr=False)
    """``http://[user:password@]host:port``; wins over the process's proxy settings."""

    namespace: str = ""

    def __post_init__(self) -> None:
        url = self.url
        if url.scheme not in {"https", "http"} or not url.hostname:
            raise ConfigError(
                f"API server {self.server!r}: not a URL of the form https://host:port"
            )
        if url.username or url.query or url.fragment:
            raise ConfigError("the API server's URL may carry no user, query or fragment")
        if url.scheme == "http" and url.hostname not in LOOPBACK:
            raise ConfigError(f"API server {self.server!r}: plain http is allowed on loopback only")
        if bool(self.client_cert_data) != bool(self.client_key_data):
            raise ConfigError("inline client certificate and key must be given together")
        if self.client_key_file and not self.client_cert_file:
            raise ConfigError(f"client key {self.client_key_file!r} has no certificate")

    @property
    def url(self) -> SplitResult:
        """The server's URL in parts."""
        try:
            url = urlsplit(self.server)
            url.port  # noqa: B018  the property raises ValueError for a bad port
        except ValueError as error:
            raise ConfigError(f"API server {self.server!r}: {error}") from error
        return url

    @classmethod
    def load(cls, path: str, *, context: str = "") -> KubeConfig:
        """Read a kubeconfig file; an empty ``context`` is the file's current-context. Raises ConfigError."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"kubeconfig {path}: {error}") from error
        return parse_kubeconfig(text, path=path, context=context)


def parse_kubeconfig(text: str, *, path: str, context: str = "") -> KubeConfig:
    """Decode a kubeconfig's text; relative file names are relative to ``path``. Raises ConfigError."""
    document = _decode(text, path)
    chosen = context or _text(document, "current-context", path)
    if not chosen:
        raise ConfigError(f"kubeconfig {path}: no current-context; set it or name a context")
    entry = _named(document, "contexts", "context", chosen, path)
    cluster = _named(document, "clusters", "cluster", _text(entry, "cluster", path), path)
    user_name = _text(entry, "user", path)
    user = _named(document, "users", "user", user_name, path) if user_name else {}
    if cluster.get("insecure-skip-tls-verify"):
        raise ConfigError(
            f"kubeconfig {path}: insecure-skip-tls-verify is refused; give the server's CA instead"
        )
    for key, meaning in UNSUPPORTED_USER_KEYS.items():
        if user.get(key):
            raise ConfigError(f"kubeconfig {path}: user {user_name!r} has {key!r}: {meaning}")
    return KubeConfig(
        server=_text(cluster, "server", path),
        ca_file=_file(cluster, "certificate-authority", path),
        ca_data=_data(cluster, "certificate-authority-data", path),
        token_file=_file(user, "tokenFile", path),
        token=_text(user, "token", path),
        client_cert_file=_file(user, "client-certificate", path),
        client_key_file=_file(user, "client-key", path),
        client_cert_data=_data(user, "client-certificate-data", path),
        client_key_data=_data(user, "client-key-data", path),
        tls_server_name=_text(cluster, "tls-server-name", path),
        proxy_url=_text(cluster, "proxy-url", path),
        namespace=_text(entry, "namespace", path),
    )


def _decode(text: str, path: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        # Imported here because it costs 1.4 MB and 26 ms: a kubeconfig written as JSON does without.
        import yaml

        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            # The error quotes the file, which holds secrets: only the place is passed on.
            mark = getattr(error, "problem_mark", None)
            place = f" at line {mark.line + 1}" if mark else ""
            raise ConfigError(f"kubeconfig {path}: not YAML{place}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"kubeconfig {path}: not a mapping")
    return document


def _named(
    document: dict[str, Any], plural: str, kind: str, name: str, path: str
) -> dict[str, Any]:
    entries = document.get(plural) or []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("name") == name:
            value = entry.get(kind) or {}
            if isinstance(value, dict):
                return value
    raise ConfigError(f"kubeconfig {path}: no {kind} named {name!r}")


def _text(values: dict[str, Any], key: str, path: str) -> str:
    value = values.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ConfigError(f"kubeconfig {path}: {key} is not a string")
    return value.strip()


def _file(values: dict[str, Any], key: str, path: str) -> str:
    name = _text(values, key, path)
    return str(Path(path).parent / name) if name else ""


def _data(values: dict[str, Any], key: str, path: str) -> bytes:
    try:
        return base64.b64decode(_text(values, key, path), validate=True)
    except binascii.Error:
        raise ConfigError(f"kubeconfig {path}: {key} is not base64") from None
