"""Addresses and interfaces, from the kernel's own formats."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from msgspec.structs import replace

from nvdra_node.host import network
from nvdra_node.host.network import HostAddress, Interface
from nvdra_node.host.ports import HostRoots

IF_INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000002 02 40 00 80     eth0
fd00000000000000abcdabcdabcdabcd 02 40 00 01     eth0
fd000000000000000000000000000009 02 40 00 c8     eth0
fe800000000000000200acfffe110002 02 40 20 80     eth0
"""


def ifreq(label: str, address: str) -> bytes:
    sockaddr = socket.AF_INET.to_bytes(2, "little") + b"\0\0" + socket.inet_aton(address)
    return label.encode().ljust(16, b"\0") + sockaddr.ljust(24, b"\0")


def test_ipv4_addresses_have_interfaces_and_labels() -> None:
    data = ifreq("lo", "127.0.0.1") + ifreq("eth0", "10.0.0.2") + ifreq("eth0:vip", "10.0.0.100")
    assert list(network.parse_ifreqs(data)) == [
        HostAddress(interface="lo", address="127.0.0.1"),
        HostAddress(interface="eth0", address="10.0.0.2"),
        HostAddress(interface="eth0", address="10.0.0.100"),
    ]


def test_ipv6_addresses_have_their_flags() -> None:
    found = {one.address: one for one in network.parse_if_inet6(IF_INET6)}
    assert set(found) == {
        "::1", "fd00::2", "fd00::abcd:abcd:abcd:abcd", "fd00::9", "fe80::200:acff:fe11:2"
    }  # fmt: skip
    assert found["fd00::2"] == HostAddress(interface="eth0", address="fd00::2")
    assert found["fd00::abcd:abcd:abcd:abcd"].is_temporary
    assert not found["fd00::9"].is_usable


@pytest.fixture
def roots(tmp_path: Path) -> HostRoots:
    """A host with loopback only, and files of our own beside."""
    (tmp_path / "net").mkdir()
    (tmp_path / "class/net/eth0/device").mkdir(parents=True)
    (tmp_path / "class/net/veth1").mkdir()
    for bridge, port in (("br0", "eth0"), ("cni0", "veth1")):
        (tmp_path / "class/net" / bridge / "brif" / port).mkdir(parents=True)
        (tmp_path / "class/net" / bridge / "uevent").write_text(
            f"DEVTYPE=bridge\nINTERFACE={bridge}\n"
        )
    return replace(HostRoots(), proc=tmp_path, sys=tmp_path)


def test_bridges_are_recognised_by_their_ports(roots: HostRoots) -> None:
    lines = [
        f"fd0000000000000000000000000000{i:02x} 02 40 00 80 {n}"
        for i, n in enumerate(("br0", "cni0"))
    ]
    (roots.proc / "net/if_inet6").write_text("\n".join(lines))
    found = network.read(roots).interfaces
    assert Interface(name="br0", kind="bridge", uplinks=("eth0",)) in found
    assert Interface(name="cni0", kind="bridge") in found


def test_host_without_ipv6_and_sysfs_has_its_ipv4_addresses(roots: HostRoots) -> None:
    found = network.read(roots)
    assert HostAddress(interface="lo", address="127.0.0.1") in found.addresses
    assert all(":" not in one.address for one in found.addresses)


def test_route_to_this_host_is_its_own_address() -> None:
    assert network.towards("127.0.0.1", 6443) == network.Route(
        source="127.0.0.1", targets=("127.0.0.1",)
    )
    assert network.towards("no-such-host.invalid", 6443) == network.Route()
