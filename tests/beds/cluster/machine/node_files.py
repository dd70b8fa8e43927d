"""The configuration files of a node's programs, as text. Pure."""

from __future__ import annotations

import json
from pathlib import Path

from tests.beds.cluster.artifacts.images import PAUSE
from tests.beds.cluster.layout import Layout

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CNI_DIR = "/etc/cni/net.d"
KUBELET_DIR = "/var/lib/kubelet"


def containerd(cni_plugins: Path) -> str:
    """Return containerd's configuration: CDI from both directories, the pause image pinned, cgroups made by itself."""
    return f"""\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE}"

[plugins."io.containerd.cri.v1.runtime"]
  cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{cni_plugins}"]
    conf_dir = "{CNI_DIR}"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "/usr/sbin/runc"
        SystemdCgroup = false
"""


def cni(layout: Layout, node: str) -> str:
    """Return the pod network of a node: a bridge of its own with addresses from the node's range."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": layout.pod_cidr(node)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": ipam,
    }
    ports = {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": True}}
    network = {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}
    return json.dumps(network, indent=1)


def kubelet(layout: Layout, node: str, cgroup: str) -> str:
    """Return the kubelet's configuration (JSON, which is YAML); its pods are below `cgroup`."""
    authentication = {
        "anonymous": {"enabled": False},
        "webhook": {"enabled": True},
        "x509": {"clientCAFile": f"{KUBELET_DIR}/pki/ca.crt"},
    }
    document = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": layout.address(node),
        "authentication": authentication,
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "evictionHard": {"memory.available": "100Mi"},
        "failCgroupV1": False,
        "failSwapOn": False,
        "featureGates": layout.feature_gates,
        "imageGCHighThresholdPercent": 100,
        "oomScoreAdj": 0,
        "resolvConf": "",
        "tlsCertFile": f"{KUBELET_DIR}/pki/kubelet.crt",
        "tlsPrivateKeyFile": f"{KUBELET_DIR}/pki/kubelet.key",
    }
    return json.dumps(document, indent=1)


def kubelet_argv(layout: Layout, node: str) -> list[str]:
    """Return the kubelet's command line."""
    return [
        str(layout.program("kubelet")),
        f"--config={KUBELET_DIR}/config.yaml",
        f"--kubeconfig={KUBELET_DIR}/kubeconfig",
        f"--node-ip={layout.address(node)}",
        "--v=2",
    ]


def containerd_argv(layout: Layout) -> list[str]:
    """Return containerd's command line."""
    return [str(layout.program("containerd")), "--config=/etc/containerd/config.toml"]
