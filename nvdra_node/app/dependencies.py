"""What every service of this node stands on: its credential and the host's trees. Called by the services here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from nvdra_core.errors import ConfigError
from nvdra_core.kube import identity
from nvdra_core.kube.config import KubeConfig
from nvdra_core.runtime import log
from nvdra_node import config
from nvdra_node.app import sandbox
from nvdra_node.host.ports import HostRoots

_LOG = log.get(__name__)

if TYPE_CHECKING:
    from nvdra_core.gates import FeatureGates
    from nvdra_core.kube.client import Client


def open_client(settings: config.NodeConfig) -> Client:
    """A client with the credential of the settings, or the first that this host has. Raises ConfigError."""
    from nvdra_core.kube.client import Client  # with TLS, for which the first look does not wait

    kubeconfig = load_kubeconfig(settings)
    try:
        return Client(kubeconfig)
    except ConfigError as error:
        raise ConfigError(f"{error}{_hidden_file(kubeconfig)}") from error


def load_kubeconfig(settings: config.NodeConfig) -> KubeConfig:
    """Where the API server is, and our credential for it. Raises ConfigError."""
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
    """The kubeconfig that is set, or the first that this host has. Raises ConfigError."""
    if settings.kubeconfig:
        return settings.kubeconfig
    for path in config.KUBECONFIGS:
        if _is_there(path):
            return path
    raise ConfigError(
        "no credential for the Kubernetes API: none of "
        + ", ".join(map(str, config.KUBECONFIGS))
        + " exists; join this host to a cluster, or set kubeconfig"
    )


def with_node_name(settings: config.NodeConfig) -> config.NodeConfig:
    """The settings with the Node's name that the credential says, unless one is set. Raises ConfigError.

    The kubelet (--hostname-override) or the cloud names the Node, so the host may have another name, which is used only
    where the credential names no Node.
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
    """As ``with_node_name``, also on a host that has no credential yet. Raises ConfigError for contradicting names."""
    try:
        load_kubeconfig(settings)
    except ConfigError:
        return settings
    return with_node_name(settings)


def warnings(settings: config.NodeConfig) -> list[str]:
    """What the services will not find although an administrator does."""
    return [
        f"{option.key} is {value}: {why}; choose a path elsewhere"
        for option in config.OPTIONS
        if isinstance(value := getattr(settings, option.field), Path)
        if (why := sandbox.why_hidden(value))
    ]


def _is_there(path: Path) -> bool:
    """Whether there is a file, also one that may not be looked at: reading it says why."""
    try:
        return path.exists()
    except OSError:
        return True


def _hidden_file(kubeconfig: KubeConfig) -> str:
    """A hint about the first file of the credential that the services cannot see; empty: there is none."""
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
    """The host's trees."""
    return HostRoots(
        driver=settings.driver_root,
        dev=settings.dev_root,
        proc=settings.proc_root,
        sys=settings.sys_root,
    )


def checked_gates(settings: config.NodeConfig) -> FeatureGates:
    """The feature gates. Raises ConfigError for unknown ones and sets that cannot work."""
    from nvdra_core.gates import FeatureGates  # not every service has any

    gates = FeatureGates.of(**settings.feature_gates)
    gates.validate()
    return gates
