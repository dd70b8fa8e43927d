"""One HTTP connection to the API server, on ``http.client``: TLS, a CONNECT proxy, and a deadline for each exchange.

A connection serves one request at a time and is owned by one thread; only ``abort`` may come from another one.
Failures are OSError and ``http.client.HTTPException``.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import select
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from nvdra_core.kube.transport import BODY_LIMIT_BYTES, SOCKET_OPTIONS
from nvdra_core.runtime.clock import Deadline
from nvdra_node.kube.credentials import Credentials
from nvdra_node.kube.proxy import Proxy

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

READ_SIZE_BYTES = 64 * 1024

AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
"""See socket.getaddrinfo."""


class Route(msgspec.Struct, frozen=True):
    """Where the API server is: its address, the name in its certificate, and the proxy to it, if any."""

    host: str
    port: int
    server_name: str
    proxy: Proxy | None = None

    @property
    def authority(self) -> str:
        """``host:port``, as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def addresses(self) -> Sequence[AddressInfo]:
        """What to connect to, from DNS. Raises OSError, and UnicodeError for an impossible name."""
        host, port = (self.proxy.host, self.proxy.port) if self.proxy else (self.host, self.port)
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class Connection(http.client.HTTPConnection):
    """See the module."""

    def __init__(self, route: Route, credentials: Credentials) -> None:
        super().__init__(route.host, route.port)
        self.generation = credentials.generation
        self.idle_since_s = 0.0
        self._route = route
        self._tls = credentials.tls
        self._timed: _TimedSocket | None = None
        self._is_aborted = False

    def open(self, limit: Deadline) -> None:
        """Connect, through the proxy if there is one, and start TLS."""
        route = self._route
        sock = self._connect(limit)
        if route.proxy:
            self._tunnel_through(route.proxy)
        if self._tls:
            tls = self._tls.wrap_socket(
                sock, server_hostname=route.server_name, do_handshake_on_connect=False
            )
            self._use(tls, limit)
            tls.settimeout(_left_s(limit))
            tls.do_handshake()

    def bound(self, limit: Deadline) -> None:
        """Set the deadline of everything from now on."""
        if self._timed is not None:
            self._timed.limit = limit

    def is_stale(self) -> bool:
        """Whether an idle connection was closed by the server, or has unexpected data."""
        if self._timed is None:
            return True
        poller = select.poll()
        poller.register(self._timed.sock, select.POLLIN)
        return bool(poller.poll(0))

    def abort(self) -> None:
        """End the connection from any thread; the owner's waiting call fails at once."""
        self._is_aborted = True
        if self._timed is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket.shutdown: that one removes the TLS state under the reading thread.
                socket.socket.shutdown(self._timed.sock, socket.SHUT_RDWR)

    def release(self) -> None:
        """Close the connection."""
        self.close()
        if self._timed is not None:
            self._timed.sock.close()

    def _connect(self, limit: Deadline) -> socket.socket:
        """Connect to the first address that answers; each gets an equal part of the time that is left."""
        # Not socket.create_connection: every address would get all of the time, and ``abort`` could not end it.
        addresses = self._route.addresses()
        failure = OSError(f"{self._route.host} has no address")
        for place, (family, kind, protocol, _, address) in enumerate(addresses):
            sock = socket.socket(family, kind, protocol)
            self._use(sock, limit)
            try:
                for option in SOCKET_OPTIONS:
                    sock.setsockopt(*option)
                sock.settimeout(_left_s(limit) / (len(addresses) - place))
                sock.connect(address)
            except OSError as error:
                sock.close()
                failure = error
            else:
                return sock
        raise failure

    def _use(self, sock: socket.socket, limit: Deadline) -> None:
        self.sock = self._timed = _TimedSocket(sock, limit)
        if self._is_aborted:
            raise ConnectionAbortedError("the connection was aborted")

    def _tunnel_through(self, proxy: Proxy) -> None:
        # Not set_tunnel: before Python 3.12 it writes IPv6 addresses without brackets.
        authority = self._route.authority
        head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
        if proxy.authorization:
            head += f"Proxy-Authorization: {proxy.authorization}\r\n"
        self.sock.sendall(f"{head}\r\n".encode("ascii"))
        response = http.client.HTTPResponse(self.sock, method="CONNECT")
        response.begin()
        if response.status != http.client.OK:
            raise ConnectionError(
                f"the proxy {proxy.host}:{proxy.port} answered {response.status} {response.reason}"
            )


def read_body(response: http.client.HTTPResponse) -> bytes:
    """The whole body; raises HTTPException when it is cut or larger than BODY_LIMIT_BYTES."""
    size = response.length
    if size is not None and size <= BODY_LIMIT_BYTES:
        return response.read()
    body = bytearray()
    while (
        size is None and len(body) <= BODY_LIMIT_BYTES
    ):  # in chunks, or to the end of the connection
        piece = response.read(READ_SIZE_BYTES)
        if not piece:
            return bytes(body)
        body += piece
    raise http.client.HTTPException(f"the body is larger than {BODY_LIMIT_BYTES} bytes")


class _TimedSocket:
    """The part of a socket that http.client uses, with ``limit`` as the deadline of every call."""

    def __init__(self, sock: socket.socket, limit: Deadline) -> None:
        self.sock = sock
        self.limit = limit

    def sendall(self, data: bytes) -> None:
        self.sock.settimeout(_left_s(self.limit))
        self.sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self), READ_SIZE_BYTES)

    def close(self) -> None:
        """Nothing: http.client closes the socket before a body without a length is read. See ``release``."""


class _TimedReader(io.RawIOBase):
    def __init__(self, timed: _TimedSocket) -> None:
        self._timed = timed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._timed.sock.settimeout(_left_s(self._timed.limit))
        return self._timed.sock.recv_into(buffer)


def _left_s(limit: Deadline) -> float:
    left_s = limit.remaining_s()
    if left_s <= 0.0:
        raise TimeoutError("no answer in time")
    return left_s
