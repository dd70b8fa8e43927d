"""The address for IMEX peers on typical hosts."""

from __future__ import annotations

from typing import Any

import pytest

from nvdra_node.host.network import HostAddress, Interface, Network, Route
from nvdra_node.imex.sources.address import Choice, Facts, choose, internal_ips

API = "10.0.0.100"
LO = ("lo", "127.0.0.1"), ("lo", "::1")
ETH = ("eth0", "10.0.0.2")


def a_host(*addresses: tuple[str, str], interfaces: tuple[Interface, ...] = ()) -> Network:
    return Network(
        addresses=tuple(HostAddress(interface=i, address=a) for i, a in (*LO, *addresses)),
        interfaces=interfaces,
    )


def chosen(network: Network, source: str, *targets: str, **more: Any) -> Choice:
    return choose(
        Facts(network=network, route=Route(source=source, targets=targets or (API,)), **more)
    )


@pytest.mark.parametrize(
    ("interface", "address"),
    [
        ("eth0", "10.0.0.2"), ("bond0", "10.0.0.2"), ("enp1s0f0.100", "10.0.0.2"),
        ("eth0", "fd00::2"), ("br-ex", "10.0.0.2"), ("wg0", "10.0.0.2"),
    ],
)  # fmt: skip
def test_source_address_towards_the_api_server_is_used(interface: str, address: str) -> None:
    found = chosen(a_host((interface, address)), address)
    assert (found.address, found.needs_node) == (address, False)
    assert "towards the API server" in found.message


@pytest.mark.parametrize(
    ("source", "target"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "127.0.1.1")]
)
def test_balancer_on_the_node_leads_to_the_internal_ip(source: str, target: str) -> None:
    host = a_host(ETH, ("eth0", "fd00::2"))
    waiting = chosen(host, source, target)
    assert (waiting.address, waiting.needs_node) == ("", True)
    found = chosen(host, source, target, node=("10.0.0.2",))
    assert found.address == "10.0.0.2"
    assert "InternalIP" in found.message and "loopback" in found.message


CONTAINER_INTERFACES = [
    "cni0", "docker0", "flannel.1", "cilium_host", "vxlan.calico", "tunl0",
    "br-0a1b2c3d4e5f", "virbr0", "podman1", "weave", "lxdbr0", "antrea-gw0", "ovn-k8s-mp0",
    "kube-bridge", "kube-ipvs0", "nodelocaldns", "dummy0",
]  # fmt: skip


@pytest.mark.parametrize("interface", CONTAINER_INTERFACES)
def test_container_networks_and_virtual_addresses_are_not_used(interface: str) -> None:
    host = a_host((interface, "10.244.0.1"), ETH)
    assert chosen(host, "10.244.0.1").address == ""
    assert chosen(host, "10.244.0.1", node=("10.0.0.2",)).address == "10.0.0.2"


def a_bridge(*uplinks: str) -> tuple[Interface, ...]:
    return (Interface(name="br0", kind="bridge", uplinks=uplinks),)


def test_bridge_is_used_only_with_a_port_that_leads_out() -> None:
    inside = a_host(("br0", "10.9.0.1"), ETH, interfaces=a_bridge())
    assert chosen(inside, "10.9.0.1", node=("10.0.0.2",)).address == "10.0.0.2"
    for uplink in ("eth0", "bond0"):
        host = a_host(("br0", "10.0.0.2"), interfaces=a_bridge(uplink))
        assert chosen(host, "10.0.0.2").address == "10.0.0.2"


def test_overlay_interface_is_not_used_whatever_its_name() -> None:
    host = a_host(("net1", "10.9.0.1"), ETH, interfaces=(Interface(name="net1", kind="vxlan"),))
    assert chosen(host, "10.9.0.1", node=("10.9.0.1", "10.0.0.2")).address == "10.0.0.2"


def test_virtual_address_of_the_api_server_is_not_used() -> None:
    """kube-vip puts it on whichever control plane node leads."""
    host = a_host(("eth0", API), ETH)
    assert chosen(host, API).address == ""
    assert chosen(host, API, node=("10.0.0.2",)).address == "10.0.0.2"
    # A control plane node that reaches its own API server at its own address.
    assert chosen(host, "10.0.0.2", "10.0.0.2", node=("10.0.0.2",)).address == "10.0.0.2"


def test_address_on_loopback_interface_counts_if_the_node_has_it() -> None:
    """Routing to the host (BGP): the host's one address is on lo."""
    host = a_host(("lo", "10.7.0.2"))
    assert chosen(host, "10.7.0.2").address == ""
    assert chosen(host, "10.7.0.2", node=("10.7.0.2",)).address == "10.7.0.2"


@pytest.mark.parametrize("source", ["169.254.20.10", "fe80::2", "fe80::2%eth0"])
def test_link_local_address_is_not_used(source: str) -> None:
    host = a_host(("eth0", source.partition("%")[0]), ETH)
    assert chosen(host, source, node=("169.254.20.10", "10.0.0.2")).address == "10.0.0.2"


def test_temporary_ipv6_address_is_not_used_for_the_stable_one() -> None:
    found = HostAddress(interface="eth0", address="fd00::abcd", is_temporary=True)
    stable = HostAddress(interface="eth0", address="fd00::2")
    host = Network(addresses=(found, stable))
    assert chosen(host, "fd00::abcd", node=("fd00::2",)).address == "fd00::2"


def test_ipv6_address_that_another_host_has_is_refused() -> None:
    taken = HostAddress(interface="eth0", address="fd00::2", is_usable=False)
    found = chosen(Network(addresses=(taken,)), "fd00::2", node=("fd00::2",))
    assert found.address == "" and "not unique" in found.message


@pytest.mark.parametrize(
    ("source", "expected"), [("127.0.0.1", "10.0.0.2"), ("::1", "fd00::2"), ("", "10.0.0.2")]
)
def test_dual_stack_internal_ip_is_of_the_api_servers_family(source: str, expected: str) -> None:
    host = a_host(ETH, ("eth0", "fd00::2"))
    assert chosen(host, source, node=("fd00::2", "10.0.0.2")).address == expected


def test_ipv6_only_node_uses_its_ipv6_internal_ip() -> None:
    host = a_host(("eth0", "fd00::2"))
    assert chosen(host, "127.0.0.1", node=("FD00:0::2",)).address == "fd00::2"


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (None, "Node cannot be read (403)"),
        ((), "has no InternalIP"),
        (("172.17.0.1",), "172.17.0.1 is of the container network docker0"),
        (("203.0.113.7",), "203.0.113.7 is on no interface of this host"),
        (("not-an-address",), "'not-an-address' is not an IP address"),
        (("127.0.0.1", "169.254.1.1"), "169.254.1.1 is link-local"),
    ],
)
def test_refusal_says_every_reason_and_names_the_setting(
    node: tuple[str, ...] | None, reason: str
) -> None:
    host = a_host(ETH, ("docker0", "172.17.0.1"))
    found = chosen(host, "127.0.0.1", node=node, node_problem="the Node cannot be read (403)")
    assert found.address == ""
    assert "127.0.0.1 is loopback" in found.message and reason in found.message
    assert "set imexAddress in /etc/nvdra/config.yaml" in found.message


def test_setting_counts_before_everything_else() -> None:
    host = a_host(ETH, ("eth1", "192.168.1.2"))
    assert chosen(host, "10.0.0.2", configured="192.168.1.2").address == "192.168.1.2"


def test_setting_that_this_host_does_not_have_is_refused() -> None:
    found = chosen(a_host(ETH), "10.0.0.2", configured="192.168.1.2")
    assert (found.address, found.needs_node) == ("", False)
    assert "imexAddress 192.168.1.2 is on no interface of this host" in found.message


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "169.254.1.1", "fe80::2", "0.0.0.0"])
def test_setting_that_no_peer_can_reach_is_refused(address: str) -> None:
    """The API server would refuse the node's whole status for it."""
    found = chosen(a_host(ETH), "10.0.0.2", configured=address)
    assert found.address == "" and f"imexAddress {address}: no other host" in found.message


def test_address_in_use_is_kept_while_the_host_has_it() -> None:
    host = a_host(ETH, ("eth1", "10.1.0.2"))
    assert chosen(host, "10.1.0.2", current="10.0.0.2").address == "10.0.0.2"
    moved = a_host(("eth1", "10.1.0.2"))
    assert chosen(moved, "10.1.0.2", current="10.0.0.2").address == "10.1.0.2"


def test_unreadable_interfaces_leave_the_source_address() -> None:
    assert chosen(Network(), "10.0.0.2").address == "10.0.0.2"
    assert chosen(Network(), "127.0.0.1", node=("10.0.0.2",)).address == "10.0.0.2"


def test_internal_ips_are_read_in_the_nodes_order() -> None:
    addresses = [
        {"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "fd00::2"},
        {"type": "ExternalIP", "address": "203.0.113.7"}, {"type": "InternalIP", "address": "10.0.0.2"},
    ]  # fmt: skip
    assert list(internal_ips({"status": {"addresses": addresses}})) == ["fd00::2", "10.0.0.2"]
    assert list(internal_ips({})) == []
