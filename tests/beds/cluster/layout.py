"""What one cluster is and where everything of it lies: directories, addresses, names of namespaces and cgroups.

Pure but for `save` and `load`, which keep it in the cluster's own directory. All else of the package asks here, so that
`down` finds by name alone whatever an `up` that was killed has left.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.beds.cluster.artifacts import programs
from tests.beds.cluster.errors import ClusterError

MAX_NODES = 18
PREFIX = "nvdra"
BRIDGE_ADDRESS = "10.77.0.1"
NODE_NETWORK = "10.77.0.0/16"
POD_NETWORK = "10.78.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
SERVER = f"https://{BRIDGE_ADDRESS}:6443"

_EVERYWHERE = (
    "DRAConsumableCapacity",
    "DRADeviceBindingConditions",
    "DRADeviceTaints",
    "DRAExtendedResource",
    "DRAPartitionableDevices",
    "DRAResourceClaimDeviceStatus",
    "ResourceHealthStatus",
)
_SWITCHABLE = {
    "1.34": (*_EVERYWHERE, "DRAAdminAccess", "DRAPrioritizedList"),
    "1.35": (*_EVERYWHERE, "DRAAdminAccess", "DRAPrioritizedList", "DRADeviceTaintRules"),
    "1.36": (*_EVERYWHERE, "DRADeviceTaintRules"),
}


def default_gates(minor: str) -> dict[str, bool]:
    """Return the DRA feature gates that a version can switch and that the product uses, all on."""
    return dict.fromkeys(_SWITCHABLE[minor], True)


def clusters_dir() -> Path:
    """Return the directory that holds one directory for each cluster: $NVDRA_CLUSTERS or /var/lib/nvdra-cluster."""
    return Path(os.environ.get("NVDRA_CLUSTERS") or "/var/lib/nvdra-cluster")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The definition of one cluster; everything else follows from it."""

    name: str
    kubernetes: str
    """Minor version, such as "1.36"."""
    nodes: tuple[str, ...]
    """Empty: a control plane alone, without scheduler and proxy."""
    systemd_nodes: tuple[str, ...] = ()
    """Those of `nodes` that are hosts with a systemd of their own."""
    feature_gates: dict[str, bool] = field(default_factory=dict)
    proxy_on_nodes: bool = True
    """Whether each node runs kube-proxy; without it nodes reach the API server's Service and no other."""
    binds: tuple[tuple[str, str], ...] = ()
    """Host directory, path in every systemd node."""
    audit: bool = False
    """Whether the API server writes each request to `audit_log`."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?", self.name):
            raise ClusterError(
                f"bad cluster name {self.name!r}",
                next_step="use up to 20 of a-z, 0-9 and -, with a letter or digit at both ends",
            )
        if bad := [
            node for node in self.nodes if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", node)
        ]:
            raise ClusterError(f"bad node names {bad}", next_step="use a-z, 0-9 and -")
        if len(set(self.nodes)) != len(self.nodes):
            raise ClusterError("two nodes of one name")
        if len(self.nodes) > MAX_NODES:
            raise ClusterError(f"{len(self.nodes)} nodes", next_step=f"choose 0 to {MAX_NODES}")
        programs.kubernetes(self.kubernetes)

    @property
    def home(self) -> Path:
        """The directory of everything that this cluster writes."""
        return clusters_dir() / self.name

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.home / "pki"

    @property
    def logs(self) -> Path:
        """One file for each program: etcd.log, node-1.kubelet.log."""
        return self.home / "logs"

    @property
    def audit_log(self) -> Path:
        """One line of JSON (an audit.k8s.io/v1 Event) for each request, where `audit` is set."""
        return self.logs / "audit.log"

    @property
    def pids(self) -> Path:
        """One record for each program that was started."""
        return self.home / "pids"

    @property
    def admin_kubeconfig(self) -> Path:
        """The credential of a cluster administrator; its server is reached from the cluster's namespaces only."""
        return self.home / "admin.kubeconfig"

    @property
    def netns(self) -> str:
        """The network namespace of bridge and control plane."""
        return f"{PREFIX}.{self.name}"

    @property
    def cgroup(self) -> str:
        """The cgroup, in every hierarchy, that holds each process of this cluster."""
        return f"{PREFIX}.{self.name}"

    def program(self, name: str) -> Path:
        """Return the path of a built program in this cluster's version."""
        return programs.find(name, self.kubernetes)

    def index(self, node: str) -> int:
        """Return the number of a node, from 1."""
        if node not in self.nodes:
            raise ClusterError(
                f"cluster {self.name} has no node {node!r}",
                next_step=f"it has {', '.join(self.nodes)}",
            )
        return self.nodes.index(node) + 1

    def node_home(self, node: str) -> Path:
        """Return the directory with a node's private directories."""
        return self.home / "nodes" / node

    def node_netns(self, node: str) -> str:
        """Return the network namespace of a node."""
        return f"{self.netns}.{node}"

    def node_cgroup(self, node: str) -> str:
        """Return the cgroup of a node, which the kubelet takes for its root."""
        return f"{self.cgroup}/nodes/{node}"

    def identity(self, node: str) -> str:
        """Return the file name, without suffix, of the kubelet's key pair among `pki`."""
        return f"node.{node}"

    def address(self, node: str) -> str:
        """Return the address of a node on the bridge."""
        return f"10.77.0.{10 + self.index(node)}"

    def pod_cidr(self, node: str) -> str:
        """Return the network of a node's pods."""
        return f"10.78.{self.index(node)}.0/24"

    def save(self) -> None:
        """Write the definition; this makes the cluster exist for `load`, `list` and `down`."""
        self.home.mkdir(parents=True)
        for directory in (self.pki, self.logs, self.pids):
            directory.mkdir()
        text = json.dumps(dataclasses.asdict(self), indent=1)
        (self.home / "cluster.json").write_text(text)


def load(name: str) -> Layout:
    """Read the definition of a cluster that is up, or half up; `ClusterError` when there is none of that name."""
    path = clusters_dir() / name / "cluster.json"
    try:
        document = json.loads(path.read_text())
    except (FileNotFoundError, ValueError) as error:
        raise ClusterError(
            f"no cluster {name!r}", next_step=f"run: python -m tests.beds.cluster up --name {name}"
        ) from error
    document["binds"] = tuple((source, target) for source, target in document["binds"])
    for key in ("nodes", "systemd_nodes"):
        document[key] = tuple(document[key])
    return Layout(**document)


def names() -> list[str]:
    """Return the names of all clusters of this machine, whole or not."""
    root = clusters_dir()
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
