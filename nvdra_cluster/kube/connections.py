"""Connections of urllib3 that another thread can end: ``close`` must not wait for a server that does not answer."""

from __future__ import annotations

import socket
import threading
import time
from weakref import WeakSet

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError


class Connections:
    """The open connections of one client. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: WeakSet[HTTPConnection] = WeakSet()
        self._is_ended = False

    def follow(self, manager: urllib3.PoolManager) -> None:
        """Record the connections of a pool manager; those through a SOCKS proxy are left out."""
        if type(manager) not in {urllib3.PoolManager, urllib3.ProxyManager}:
            return
        connected = self._connected

        class Plain(HTTPConnection):
            def connect(self) -> None:
                began_s = time.monotonic()
                super().connect()
                connected(self, began_s)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                began_s = time.monotonic()
                super().connect()
                connected(self, began_s)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    def end(self) -> None:
        """Shut down all connections, also those that are made later; their requests fail at once."""
        with self._lock:
            self._is_ended = True
            sockets = [connection.sock for connection in self._open]
        for sock in sockets:
            if sock is not None:
                shut_down(sock)

    def _connected(self, connection: HTTPConnection, began_s: float) -> None:
        """Raises ConnectTimeoutError when name resolution, TCP and TLS took more than twice the timeout of each step:
        the request must not be sent so late.
        """
        took_s, limit_s = time.monotonic() - began_s, connection.timeout
        if isinstance(limit_s, int | float) and took_s > 2 * limit_s:
            connection.close()
            raise ConnectTimeoutError(connection, f"connecting took {took_s:.1f} s")
        with self._lock:
            self._open.add(connection)
            is_ended = self._is_ended
        if is_ended and connection.sock is not None:
            shut_down(connection.sock)


def shut_down(sock: socket.socket) -> None:
    """End reading and writing in all threads."""
    try:
        # Not SSLSocket.shutdown, which removes the TLS state under the reading thread.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        return  # closed already
