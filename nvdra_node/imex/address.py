"""Which address of this host its IMEX peers shall use. Called by ``app``.

Unless it is set: the one that the kernel would reach the API server from. It is on the node's main network, as the
addresses in the Node object are, and the kernel knows it without a question to anybody.
"""

from __future__ import annotations

import socket

from nvdra_core import log

_LOG = log.get(__name__)


def towards(host: str, port: int) -> str:
    """The local address for a peer; empty when there is no way to it. Sends nothing."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        _LOG.warning("the API server's name has no address yet", host=host, why=str(error))
        return ""
    for family, kind, protocol, _, target in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.connect(target)
            except OSError as error:
                _LOG.info("no way to the API server", v=2, target=target[0], why=str(error))
                continue
            return str(probe.getsockname()[0])
    return ""
