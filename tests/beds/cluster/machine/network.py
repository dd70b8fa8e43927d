"""Network namespaces of a cluster: one with the bridge and the control plane, one for each node, and the ways between.

No interface and no address is made in the machine's own namespace, so that clusters side by side use the same addresses
and the machine's network is not touched.
"""

from __future__ import annotations

import fcntl
from pathlib import Path

from tests.beds.cluster import commands
from tests.beds.cluster.layout import (
    API_SERVICE_ADDRESS,
    BRIDGE_ADDRESS,
    SERVICE_NETWORK,
    Layout,
    clusters_dir,
)

NETNS_DIR = Path("/run/netns")

_API_SERVICE_RULES = f"""
table ip nvdra {{
  chain prerouting {{ type nat hook prerouting priority dstnat;
    ip daddr {API_SERVICE_ADDRESS} tcp dport 443 dnat to {BRIDGE_ADDRESS}:6443
  }}
  chain output {{ type nat hook output priority -100;
    ip daddr {API_SERVICE_ADDRESS} tcp dport 443 dnat to {BRIDGE_ADDRESS}:6443
  }}
}}
"""


def create(layout: Layout) -> None:
    """Make the namespace of bridge and control plane; nodes are added one by one."""
    _add_namespace(layout.netns)
    lines = [
        "link set lo up",
        "link add br0 type bridge",
        f"addr add {BRIDGE_ADDRESS}/16 dev br0",
        "link set br0 up",
        f"route add {SERVICE_NETWORK} dev br0",
    ]
    _ip(layout.netns, lines)


def add_node(layout: Layout, node: str) -> None:
    """Make a node's namespace, its link to the bridge, and the routes to its pods and from it to others' pods."""
    netns, port = layout.node_netns(node), f"v{layout.index(node)}"
    _add_namespace(netns)
    bridge_side = [
        f"link add {port} type veth peer name eth0 netns {netns}",
        f"link set {port} master br0 up",
        f"route replace {layout.pod_cidr(node)} via {layout.address(node)}",
    ]
    others = [other for other in layout.nodes if other != node]
    node_side = [
        "link set lo up",
        f"addr add {layout.address(node)}/16 dev eth0",
        "link set eth0 up",
        # Without a route connect() to a Service fails before its address is translated.
        f"route add {SERVICE_NETWORK} dev eth0",
        *(f"route add {layout.pod_cidr(other)} via {layout.address(other)}" for other in others),
    ]
    _ip(layout.netns, bridge_side)
    _ip(netns, node_side)
    commands.run([*inside(netns), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
    if not layout.proxy_on_nodes:
        commands.run([*inside(netns), "nft", "-f", "-"], input=_API_SERVICE_RULES)


def remove_node(layout: Layout, node: str) -> None:
    """Remove a node's namespace and its link, as when the machine is switched off."""
    commands.run(["ip", "netns", "del", layout.node_netns(node)])
    # The link goes with the namespace, which ends a moment after its last process.
    commands.run(["ip", "-n", layout.netns, "link", "del", f"v{layout.index(node)}"], check=False)


def remove(cluster: str) -> None:
    """Remove every namespace of a cluster, and with them links and addresses."""
    for name in existing(cluster):
        done = commands.run(["ip", "netns", "del", name], check=False)
        # An "ip netns add" that was interrupted leaves the file without the mount.
        if done.returncode:
            (NETNS_DIR / name).unlink(missing_ok=True)


def existing(cluster: str) -> list[str]:
    """Return the names of the namespaces that are there of a cluster, given by Layout.netns."""
    if not NETNS_DIR.is_dir():
        return []
    names = (path.name for path in NETNS_DIR.iterdir())
    return sorted(name for name in names if name == cluster or name.startswith(f"{cluster}."))


def inside(netns: str) -> list[str]:
    """Return the words to put before a command that is to run in a network namespace, and in it alone."""
    return ["nsenter", f"--net={NETNS_DIR / netns}", "--"]


def _add_namespace(name: str) -> None:
    # The first two "ip netns add" of a machine, when they meet, mount the directory over each
    # other's work.
    clusters_dir().mkdir(parents=True, exist_ok=True)
    with (clusters_dir() / ".netns.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        commands.run(["ip", "netns", "add", name])


def _ip(netns: str, lines: list[str]) -> None:
    commands.run(["ip", "-n", netns, "-batch", "-"], input="\n".join(lines) + "\n")
