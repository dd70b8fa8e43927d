"""Connections to one API server: opened on demand, kept alive, lent to one thread at a time.

At most MAX_IDLE connections are kept, each for at most MAX_IDLE_S, which is less than the API server's own 90 s.
"""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable

from nvdra_core.kube.errors import ClosedError, TransportError
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.kube.config import KubeConfig
from nvdra_node.kube.connection import Connection, Route
from nvdra_node.kube.credentials import CredentialSource
from nvdra_node.kube.proxy import Proxy

MAX_IDLE = 8
MAX_IDLE_S = 60.0
CONNECT_TIMEOUT_S = 5.0


def _do_nothing(connection: Connection) -> None:
    return None


class Pool:
    """See the module. Safe for several threads."""

    def __init__(
        self, config: KubeConfig, credentials: CredentialSource, clock: Clock, proxy: Proxy | None
    ) -> None:
        url = config.url
        host = url.hostname or ""
        port = url.port or (443 if url.scheme == "https" else 80)
        self._route = Route(host, port, config.tls_server_name or host, proxy)
        self._credentials = credentials
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._live: set[Connection] = set()
        self._is_closed = False
        self.outages = 0
        """Failed connects. A change tells callers that the server may be another release now."""

    def take(self, deadline: Deadline) -> Connection:
        """A connection for one request, to be given back with ``give``. Raises TransportError (unsent)."""
        return self._take_idle() or self.dial(deadline)

    def give(self, connection: Connection, *, is_reusable: bool) -> None:
        """Take a connection of ``take`` or ``dial`` back, to keep it or to close it."""
        connection.idle_since_s = self._clock.monotonic()
        with self._lock:
            if is_reusable and not self._is_closed and len(self._idle) < MAX_IDLE:
                self._idle.append(connection)
                return
            self._live.discard(connection)
        connection.release()

    def close(self) -> None:
        """End everything; requests in progress fail with ClosedError at once."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            live = list(self._live)
        for connection in live:
            connection.abort()
        for connection in idle:
            self.give(connection, is_reusable=False)

    def dial(
        self, deadline: Deadline, opening: Callable[[Connection], None] = _do_nothing
    ) -> Connection:
        """A new connection, to be given back with ``give``. Raises TransportError (unsent).

        ``opening`` gets it before it is opened, so that another thread can abort that.
        """
        connection = Connection(self._route, self._credentials.current())
        opening(connection)
        with self._lock:
            if self._is_closed:
                raise ClosedError("the API client is closed", unsent=True)
            self._live.add(connection)
        try:
            connection.open(deadline.within(CONNECT_TIMEOUT_S))
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.give(connection, is_reusable=False)
            self.outages += 1
            raise self._unreachable(error) from error
        return connection

    def _unreachable(self, error: Exception) -> TransportError:
        if self._is_closed:
            return ClosedError("the API client is closed", unsent=True)
        return TransportError(
            f"cannot reach the API server {self._route.authority}: {_explain(error)}", unsent=True
        )

    def _take_idle(self) -> Connection | None:
        generation = self._credentials.current().generation
        oldest_s = self._clock.monotonic() - MAX_IDLE_S
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if (
                connection.generation == generation
                and connection.idle_since_s >= oldest_s
                and not connection.is_stale()
            ):
                return connection
            self.give(connection, is_reusable=False)


def _explain(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return str(error) or type(error).__name__
