"""Where the API server is and who we are: loads a kubeconfig or a pod's credentials with the ``kubernetes`` package.

``AccessConfig.load`` can be called again to read rotated tokens and certificates, or to run an exec plugin again. What
cannot be used safely is refused: a server that is not verified, plain http beyond loopback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from kubernetes.client import Configuration
from kubernetes.config import (
    ConfigException,
    list_kube_config_contexts,
    load_kube_config,
)
from kubernetes.config.incluster_config import InClusterConfigLoader
from kubernetes.config.kube_config import KubeConfigMerger

from nvdra_core.errors import ConfigError
from nvdra_core.kube.transport import LOOPBACK


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """How to reach the API server."""

    load: Callable[[], Configuration]
    """Reads files and runs plugins. Raises ConfigError."""
    namespace: str = ""


SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_IN_CLUSTER = "pod (KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT and the service account)"


def from_kubeconfig(path: str) -> AccessConfig:
    """The current context of a kubeconfig. Raises ConfigError."""

    def load() -> Configuration:
        found = Configuration()
        load_kube_config(config_file=path, client_configuration=found, persist_config=False)
        return found

    try:
        _, active = list_kube_config_contexts(path)
        _refuse_impersonation(path, (active.get("context") or {}).get("user"))
    except (ConfigException, OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"kubeconfig {path}: {error}") from error
    namespace = str((active.get("context") or {}).get("namespace") or "")
    return _checked(AccessConfig(lambda: _loaded(f"kubeconfig {path}", load), namespace))


def _refuse_impersonation(path: str, user: str | None) -> None:
    """The ``kubernetes`` package ignores ``as`` and acts with the rights of the credential. Raises ConfigError."""
    entry = KubeConfigMerger(path).config["users"].get_with_name(user, safe=True) if user else None
    if entry is not None and (entry.value.get("user") or {}).get("as"):
        raise ConfigError(
            f"kubeconfig {path}: user {user!r} has 'as': impersonation is not supported; give credentials of the"
            " controller's own identity"
        )


def in_cluster(environment: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> AccessConfig:
    """The service account of this pod; its token is read again every minute. Raises ConfigError."""

    def load() -> Configuration:
        found = Configuration()
        loader = InClusterConfigLoader(
            token_filename=str(directory / "token"),
            cert_filename=str(directory / "ca.crt"),
            environ=environment,
        )
        loader.load_and_set(found)
        return found

    namespace_file = directory / "namespace"
    namespace = namespace_file.read_text().strip() if namespace_file.exists() else ""
    return _checked(AccessConfig(lambda: _loaded(_IN_CLUSTER, load), namespace))


def _checked(access: AccessConfig) -> AccessConfig:
    access.load()
    return access


def _loaded(what: str, load: Callable[[], Configuration]) -> Configuration:
    try:
        found = load()
    except (ConfigException, OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(f"{what}: {error}") from error
    url = urlsplit(found.host)
    if not found.verify_ssl:
        raise ConfigError(f"{what}: insecure-skip-tls-verify is set; give the CA of the API server")
    if url.scheme != "https" and url.hostname not in LOOPBACK:
        raise ConfigError(f"{what}: server {found.host}: plain http is allowed on loopback only")
    return found
