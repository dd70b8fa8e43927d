"""What every service of this node stands on: its credential and the host's trees. Called by the services here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nvdra_core.errors import ConfigError
from nvdra_core.kube.config import KubeConfig
from nvdra_node import config
from nvdra_node.host.ports import HostRoots

if TYPE_CHECKING:
    from nvdra_core.gates import FeatureGates
    from nvdra_core.kube.client import Client


def open_client(settings: config.NodeConfig) -> Client:
    """A client with the credential of the settings, or the first that this host has. Raises ConfigError."""
    from nvdra_core.kube.client import Client  # with TLS, for which the first look does not wait

    return Client(load_kubeconfig(settings))


def load_kubeconfig(settings: config.NodeConfig) -> KubeConfig:
    """Where the API server is, and our credential for it. Raises ConfigError."""
    return KubeConfig.load(str(settings.kubeconfig or _find_kubeconfig()))


def _find_kubeconfig() -> Path:
    for path in config.KUBECONFIGS:
        if path.exists():
            return path
    raise ConfigError(
        "no credential for the Kubernetes API: none of "
        + ", ".join(map(str, config.KUBECONFIGS))
        + " exists; join this host to a cluster, or set kubeconfig"
    )


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
