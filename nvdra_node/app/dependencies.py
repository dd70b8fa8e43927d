"""What the services share: the API credential, the node name, feature gates and the host's trees."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from nvdra_core.errors import ConfigError
from nvdra_core.gates import FeatureGates
from nvdra_core.runtime import log
from nvdra_node import config
from nvdra_node.app import sandbox
from nvdra_node.host.ports import HostRoots
from nvdra_node.kube import identity
from nvdra_node.kube.client import Client
from nvdra_node.kube.config import KubeConfig

_LOG = log.get(__name__)


def open_client(settings: config.NodeConfig) -> Client:
    """A client with the configured credential, or the first that exists on this host. Raises ConfigError."""
    kubeconfig = load_kubeconfig(settings)
    try:
        return Client(kubeconfig)
    except ConfigError as error:
        raise ConfigError(f"{error}{_hidden_file(kubeconfig)}") from error


def load_kubeconfig(settings: config.NodeConfig) -> KubeConfig:
    """Address and credential of the API server. Raises ConfigError."""
    path = kubeconfig_path(settings)
    try:
        return KubeConfig.load(str(path))
    except ConfigError as error:
        if why := sandbox.why_hidden(path):
            raise ConfigError(
                f"{error}: {why}; copy it to {config.KUBECONFIGS[0]} with mode 0600"
            ) from error
        raise


def kubeconfig_path(settings: config.NodeConfig) -> Path:
    """The configured kubeconfig, or the first that exists on this host. Raises ConfigError."""
    if settings.kubeconfig:
        return settings.kubeconfig
    for path in config.KUBECONFIGS:
        if _exists(path):
            return path
    raise ConfigError(
        "no credential for the Kubernetes API: none of "
        + ", ".join(map(str, config.KUBECONFIGS))
        + " exists; join this host to a cluster, or set kubeconfig"
    )


def with_node_name(settings: config.NodeConfig) -> config.NodeConfig:
    """The settings with the Node's name from the credential. Raises ConfigError if another name is configured.

    The host's name may differ from the Node's (kubelet --hostname-override, cloud providers); it is used only if the
    credential names no Node.
    """
    name = identity.node_of(load_kubeconfig(settings))
    if not name or name == settings.node_name:
        return settings
    path, source = kubeconfig_path(settings), settings.sources.get("nodeName", "default")
    if source != "default":
        raise ConfigError(
            f"{source}: nodeName is {settings.node_name!r}, but the credential {path} is of node"
            f" {name!r}; remove nodeName, or give this host the credential of its own Node"
        )
    _LOG.info("node name taken from the credential", node=name, credential=str(path))
    sources = {**settings.sources, "nodeName": f"credential {path}"}
    return replace(settings, node_name=name, sources=sources)


def checked(settings: config.NodeConfig) -> config.NodeConfig:
    """As ``with_node_name``; accepts a host without a credential. Raises ConfigError for contradicting names."""
    try:
        load_kubeconfig(settings)
    except ConfigError:
        return settings
    return with_node_name(settings)


def warnings(settings: config.NodeConfig) -> list[str]:
    """Configured paths that the services' sandbox hides."""
    return [
        f"{option.key} is {value}: {why}; choose a path elsewhere"
        for option in config.OPTIONS
        if isinstance(value := getattr(settings, option.field), Path)
        if (why := sandbox.why_hidden(value))
    ]


def _exists(path: Path) -> bool:
    """Whether the file exists; also True without permission to stat it: reading it raises the error."""
    try:
        return path.exists()
    except OSError:
        return True


def _hidden_file(kubeconfig: KubeConfig) -> str:
    """A hint about the first file of the credential that the sandbox hides; empty: none."""
    files = (
        kubeconfig.ca_file,
        kubeconfig.token_file,
        kubeconfig.client_cert_file,
        kubeconfig.client_key_file,
    )
    for name in files:
        if name and (why := sandbox.why_hidden(Path(name))):
            return f"; {name}: {why}; move it, for instance to /etc/nvdra"
    return ""


def roots_of(settings: config.NodeConfig) -> HostRoots:
    """The configured trees of the host."""
    return HostRoots(
        driver=settings.driver_root,
        dev=settings.dev_root,
        proc=settings.proc_root,
        sys=settings.sys_root,
    )


def checked_gates(settings: config.NodeConfig) -> FeatureGates:
    """The feature gates. Raises ConfigError for unknown gates and contradicting sets."""
    gates = FeatureGates.of(**settings.feature_gates)
    gates.validate()
    return gates
