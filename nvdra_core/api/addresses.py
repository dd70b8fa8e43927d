"""Which texts are addresses of IMEX peers. Pure.

Nodes report their addresses themselves, and their peers write them into hosts files: both the controller and the
node check them, whatever the schema of the cluster admits.
"""

from __future__ import annotations

import ipaddress

BROADCAST = ipaddress.IPv4Address("255.255.255.255")


def is_peer_address(text: str) -> bool:
    """Whether ``text`` is an IP address that another host may have: no loopback, no link-local address, no group.

    The same as ``isIP(self) && ip(self).isGlobalUnicast()`` in CEL: private addresses are admitted, addresses
    with a zone and IPv4 in IPv6 are not.
    """
    if "%" in text:
        return False
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return False
    is_local = found.is_loopback or found.is_link_local or found.is_unspecified
    return not (is_local or found.is_multicast or found == BROADCAST)
