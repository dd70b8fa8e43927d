"""The host's addresses and network interfaces, from the kernel. Called by ``imex``.

Reads without netlink, which the services' sandbox denies: IPv4 by SIOCGIFCONF (netdevice(7)), IPv6 from
/proc/net/if_inet6, kinds of interfaces from /sys/class/net. Unreadable parts are left out.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

import msgspec

from nvdra_core.runtime import log
from nvdra_node.host.ports import HostRoots

_LOG = log.get(__name__)

_SIOCGIFCONF = 0x8912
_IFREQ_BYTES = 40
_MAX_ADDRESSES = 4096
_NAME_BYTES = 16

# linux/if_addr.h
_IFA_F_TEMPORARY = 0x01
_IFA_F_DADFAILED = 0x08
_IFA_F_DEPRECATED = 0x20
_IFA_F_TENTATIVE = 0x40

_UPLINKS = ("bond", "vlan", "vxlan", "geneve", "wlan", "macvlan", "ipvlan")


class HostAddress(msgspec.Struct, frozen=True, kw_only=True):
    """One address of this host."""

    interface: str
    address: str
    """As ``ipaddress`` writes it."""
    is_temporary: bool = False
    """IPv6: a privacy address (RFC 8981), or deprecated: it disappears by itself."""
    is_usable: bool = True
    """False: IPv6 during or after failed duplicate address detection."""


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """One network interface."""

    name: str
    kind: str = ""
    """DEVTYPE of its uevent: ``bridge``, ``vlan``, ``vxlan``, ``bond`` ...; empty for most."""
    uplinks: tuple[str, ...] = ()
    """Of a bridge: ports that lead out of the host, not to a container or virtual machine."""


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """Interfaces and addresses, read at one time."""

    addresses: tuple[HostAddress, ...] = ()
    interfaces: tuple[Interface, ...] = ()


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """The kernel's route to a server."""

    source: str = ""
    """The local address; empty: no route."""
    targets: tuple[str, ...] = ()
    """Addresses of the server's name."""


def read(roots: HostRoots) -> Network:
    """Read all addresses and interfaces."""
    found = (*_ipv4(), *_ipv6(roots.proc / "net/if_inet6"))
    names = dict.fromkeys(one.interface for one in found)
    return Network(
        addresses=found,
        interfaces=tuple(_interface(roots.sys / "class/net", name) for name in names),
    )


def towards(host: str, port: int) -> Route:
    """The route to a server, by a UDP socket that sends nothing."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        _LOG.info("API server's name does not resolve", v=1, host=host, error=str(error))
        return Route()
    targets = tuple(dict.fromkeys(str(target[0]) for *_, target in found))
    for family, kind, protocol, _, target in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.connect(target)
            except OSError as error:
                _LOG.info("no route to the API server", v=2, target=target[0], error=str(error))
                continue
            return Route(source=str(probe.getsockname()[0]), targets=targets)
    return Route(targets=targets)


def _ipv4() -> tuple[HostAddress, ...]:
    buffer = array.array("B", bytes(_IFREQ_BYTES * _MAX_ADDRESSES))
    place, size = buffer.buffer_info()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            answer = fcntl.ioctl(probe, _SIOCGIFCONF, struct.pack("iL", size, place))
    except OSError as error:
        _LOG.warning("IPv4 addresses of this host cannot be read", error=str(error))
        return ()
    (used,) = struct.unpack_from("i", answer)
    return tuple(parse_ifreqs(buffer.tobytes()[:used]))


def parse_ifreqs(data: bytes) -> Iterable[HostAddress]:
    """The result of SIOCGIFCONF: records of a label (``eth0`` or ``eth0:vip``) and a sockaddr_in."""
    for start in range(0, len(data) - _IFREQ_BYTES + 1, _IFREQ_BYTES):
        label = data[start : start + _NAME_BYTES].split(b"\0", 1)[0].decode("ascii", "replace")
        packed = data[start + _NAME_BYTES + 4 : start + _NAME_BYTES + 8]
        address = str(ipaddress.IPv4Address(packed))
        yield HostAddress(interface=label.split(":", 1)[0], address=address)


def _ipv6(path: Path) -> tuple[HostAddress, ...]:
    try:
        return tuple(parse_if_inet6(path.read_text()))
    except FileNotFoundError:
        return ()  # IPv6 is off
    except (OSError, ValueError) as error:
        _LOG.warning("IPv6 addresses of this host cannot be read", error=str(error))
        return ()


def parse_if_inet6(text: str) -> Iterable[HostAddress]:
    """Lines of address, index, prefix length, scope, flags and name, all but the last in hexadecimal."""
    for line in text.splitlines():
        packed, _, _, _, flags_text, name = line.split()
        flags = int(flags_text, 16)
        yield HostAddress(
            interface=name,
            address=str(ipaddress.IPv6Address(bytes.fromhex(packed))),
            is_temporary=bool(flags & (_IFA_F_TEMPORARY | _IFA_F_DEPRECATED)),
            is_usable=not flags & (_IFA_F_DADFAILED | _IFA_F_TENTATIVE),
        )


def _interface(directory: Path, name: str) -> Interface:
    ports = directory / name / "brif"
    try:
        uplinks = tuple(port.name for port in ports.iterdir() if _is_uplink(directory, port.name))
    except OSError:
        uplinks = ()  # no bridge
    return Interface(name=name, kind=_kind(directory / name), uplinks=uplinks)


def _is_uplink(directory: Path, port: str) -> bool:
    return (directory / port / "device").exists() or _kind(directory / port) in _UPLINKS


def _kind(interface: Path) -> str:
    try:
        lines = (interface / "uevent").read_text().splitlines()
    except OSError:
        return ""
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return values.get("DEVTYPE", "")
