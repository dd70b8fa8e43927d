"""Connections of urllib3 that another thread can end: ``close`` must not wait for a server that does not answer."""

from __future__ import annotations

import socket
import threading
from weakref import WeakSet

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


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
        record = self._record

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                record(self)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                record(self)

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

    def _record(self, connection: HTTPConnection) -> None:
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
