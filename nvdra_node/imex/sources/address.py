"""Chooses the address of this host for its IMEX peers. Pure. Called by ``address_monitor``.

In this order: the setting ``imexAddress``; the address in use, while it is usable; the source address towards the API
server, which needs no request; the Node's InternalIP. The source address is refused if it does not lead peers to this
host: loopback (kubespray, k3s, RKE2 and Talos have a balancer of the API server on each node), link-local, of a
container network, virtual (kube-vip moves it), or a temporary IPv6 address. With a loopback address each daemon would
be READY without any peer.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

import msgspec

from nvdra_core.api.addresses import is_peer_address
from nvdra_node.host.network import HostAddress, Network, Route
from nvdra_node.imex.model import ADDRESS_REMEDY

_CONTAINER = re.compile(
    r"antrea-gw|br-[0-9a-f]{12}$|cali|cbr\d|cilium_|cni|docker|flannel|genev_sys|ip6tnl|kube-bridge|lxc|lxdbr"
    r"|nerdctl|ovn-k8s-|podman|tunl\d|virbr|vxlan_sys|vxlan\.calico|vxlan-v6\.calico|weave"
)
"""Names of interfaces of container runtimes and network plugins."""
_VIRTUAL = re.compile(r"lo$|dummy|kube-ipvs|kube-dummy|nodelocaldns")
"""Interfaces without a link: their addresses are virtual, unless the Node has them (routing to the host)."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Input of ``choose``."""

    configured: str = ""
    """The setting; empty: none."""
    network: Network
    route: Route = Route()
    """Towards the API server."""
    node: tuple[str, ...] | None = None
    """InternalIPs of the Node, in its order; None: unread."""
    node_problem: str = ""
    """Why the Node is unread."""
    current: str = ""
    """The address in use; empty: none yet."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """An address and its reason, or none and the remedy."""

    address: str = ""
    """As ``ipaddress`` writes it."""
    message: str = ""
    needs_node: bool = False
    """The Node's addresses are needed and unread."""


def choose(facts: Facts) -> Choice:
    """The address for these facts."""
    if facts.configured:
        return _configured(facts)
    problem = _route_problem(facts)
    if facts.current and not _problem(facts.current, facts):
        return Choice(
            address=facts.current, message="the address in use, which this host still has"
        )
    if not problem:
        message = "the source address towards the API server"
        return Choice(address=_normal(facts.route.source), message=message)
    family = _family(facts.route.source)
    internal = sorted(facts.node or (), key=lambda address: _family(address) != family)
    refused = [problem]
    for address in internal:
        if not (found := _problem(address, facts)):
            return Choice(address=_normal(address), message=f"InternalIP of the Node, as {problem}")
        refused.append(f"InternalIP {found}")
    if facts.node is None:
        refused.append(facts.node_problem or "the Node's InternalIP is not known yet")
    elif not internal:
        refused.append("the Node has no InternalIP")
    text = f"no address for IMEX peers: {'; '.join(refused)}; {ADDRESS_REMEDY}"
    return Choice(message=text, needs_node=facts.node is None)


def _configured(facts: Facts) -> Choice:
    address = _normal(facts.configured)
    if not is_peer_address(address):
        text = f"imexAddress {address}: no other host reaches it; correct it, or remove the setting"
        return Choice(message=text)
    if facts.network.addresses and _find(address, facts.network) is None:
        text = f"imexAddress {address} is on no interface of this host; correct it, or remove the setting"
        return Choice(message=text)
    return Choice(address=address, message="the setting imexAddress")


def _route_problem(facts: Facts) -> str:
    """Why the source address towards the API server is unusable; empty: it is usable."""
    source = facts.route.source
    if not source:
        return "this host has no route to the API server"
    what = "the source address towards the API server"
    if problem := _problem(source, facts):
        return f"{what} {problem}"
    found = _find(source, facts.network)
    if source in facts.route.targets:
        return f"{what} {source} is the API server's own, which may move to another host"
    if found is not None and _VIRTUAL.match(found.interface):
        return f"{what} {source} is a virtual address on {found.interface}"
    if found is not None and found.is_temporary:
        return f"{what} {source} is a temporary IPv6 address"
    return ""


def _problem(address: str, facts: Facts) -> str:
    """Why an address is unusable, starting with the address; empty: it is usable."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return f"{address!r} is not an IP address"
    if parsed.is_loopback or parsed.is_unspecified:
        return f"{address} is loopback"
    if parsed.is_link_local or parsed.is_multicast:
        return f"{address} is link-local"
    if not is_peer_address(address):
        return f"{address} is not an address of a host"
    return _problem_here(address, facts.network) if facts.network.addresses else ""


def _problem_here(address: str, network: Network) -> str:
    """The same, by its interface."""
    found = _find(address, network)
    if found is None:
        return f"{address} is on no interface of this host"
    if _is_of_containers(found.interface, network):
        return f"{address} is of the container network {found.interface}"
    return "" if found.is_usable else f"{address} is not unique (duplicate address detection)"


def _is_of_containers(name: str, network: Network) -> bool:
    """Whether an interface is of a container network: by name, a bridge without uplinks, or an overlay."""
    if _CONTAINER.match(name):
        return True
    found = next((one for one in network.interfaces if one.name == name), None)
    if found is None:
        return False
    return found.kind in ("vxlan", "geneve") or (found.kind == "bridge" and not found.uplinks)


def _find(address: str, network: Network) -> HostAddress | None:
    return next((one for one in network.addresses if one.address == _normal(address)), None)


def _normal(address: str) -> str:
    return str(ipaddress.ip_address(address))


def _family(address: str) -> int:
    return 6 if ":" in address else 4


def internal_ips(node: object) -> Iterator[str]:
    """InternalIPs of a Node object in its order, the cluster's first IP family first."""
    status = node.get("status") if isinstance(node, dict) else None
    for entry in (status or {}).get("addresses") or ():
        if entry.get("type") == "InternalIP":
            yield str(entry.get("address"))
