"""Connections to one API server: dialled on demand, kept alive, handed to one thread at a time.

Limits: MAX_CONNECTIONS requests at once (the next waits, inside its deadline), MAX_IDLE kept, for at most MAX_IDLE_S,
which is less than the API server's own 90 s. Watches bring their own connections and are not counted. Half-open
connections are found by TCP keepalive in about 30 s. A name look-up cannot be interrupted; give addresses where DNS is
slow.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from urllib.parse import SplitResult

from nvdra_core.kube.config import KubeConfig
from nvdra_core.kube.credentials import Credentials, CredentialSource
from nvdra_core.kube.errors import ClosedError, TransportError
from nvdra_core.kube.proxy import Proxy
from nvdra_core.kube.wire import Connection
from nvdra_core.runtime.clock import Clock, Deadline

MAX_CONNECTIONS = 16
MAX_IDLE = 8
MAX_IDLE_S = 60.0
CONNECT_TIMEOUT_S = 5.0


class Pool:
    """See the module. Safe for several threads."""

    def __init__(
        self, config: KubeConfig, credentials: CredentialSource, clock: Clock, proxy: Proxy | None
    ) -> None:
        self._url: SplitResult = config.url
        self._server_name = config.tls_server_name or self._url.hostname or ""
        self._credentials = credentials
        self._clock = clock
        self._proxy = proxy
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._idle: list[Connection] = []
        self._live: set[Connection] = set()
        self._session: tuple[int, ssl.SSLSession] | None = None
        self._is_closed = False
        self.outages = 0
        """How often dialling failed: a change tells callers that the server may be another one now."""

    @property
    def host(self) -> str:
        """What goes into the Host header."""
        return self._url.netloc

    def take(self, deadline: Deadline, *, fresh: bool = False) -> Connection:
        """A connection for one request; give it back with ``give`` or ``drop``. ``fresh`` dials a new one."""
        if not self._slots.acquire(timeout=max(deadline.remaining_s(), 0.001)):
            raise TransportError(f"all {MAX_CONNECTIONS} API connections stayed busy", unsent=True)
        try:
            credentials = self._credentials.current()
            connection = None if fresh else self._take_idle(credentials.generation)
            return connection or self.dial(credentials, deadline)
        except BaseException:
            self._slots.release()
            raise

    def give(self, connection: Connection) -> None:
        """Return a connection whose answer was read to its end."""
        connection.idle_since_s = self._clock.monotonic()
        if not connection.is_used:  # once: taking a session out of OpenSSL costs 0.4 ms
            connection.is_used = True
            self._remember_session(connection)
        with self._lock:
            is_kept = not self._is_closed and len(self._idle) < MAX_IDLE
            if is_kept:
                self._idle.append(connection)
        self._slots.release()
        if not is_kept:
            self.forget(connection)

    def drop(self, connection: Connection) -> None:
        """Return a connection that cannot be used again."""
        self._slots.release()
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """Close a connection of ``dial`` that no slot belongs to."""
        with self._lock:
            self._live.discard(connection)
        connection.close()

    def close(self) -> None:
        """End everything; requests under way fail with ClosedError at once."""
        with self._lock:
            self._is_closed = True
            live = list(self._live)
            idle, self._idle = self._idle, []
        for connection in live:
            connection.abort()
        for connection in idle:
            self.forget(connection)

    def clear(self) -> None:
        """Close what is idle: after an outage or a refused credential the old connections are worth nothing."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            self.forget(connection)

    def dial(
        self,
        credentials: Credentials,
        deadline: Deadline,
        announce: Callable[[Connection], None] | None = None,
    ) -> Connection:
        """A new connection that is not counted; its owner calls ``forget``. Raises TransportError (unsent).

        ``announce`` gets it before anything is waited for, so that another thread can abort it.
        """
        limit = Deadline(min(CONNECT_TIMEOUT_S, deadline.remaining_s()), self._clock)
        connection = Connection(credentials.generation)
        self._admit(connection)
        try:
            if announce:
                announce(connection)
            self._reach(connection, credentials, limit)
            return connection
        except (OSError, TransportError) as error:
            self.forget(connection)
            self.outages += 1
            raise self._unreachable(error) from error

    def _reach(self, connection: Connection, credentials: Credentials, limit: Deadline) -> None:
        host = self._url.hostname or ""
        target = (host, self._url.port or (443 if credentials.tls else 80))
        if self._proxy:
            connection.connect((self._proxy.host, self._proxy.port), limit)
            _tunnel(connection, self._proxy, target, limit)
        else:
            connection.connect(target, limit)
        if credentials.tls:
            known = self._session
            session = known[1] if known and known[0] == credentials.generation else None
            connection.start_tls(credentials.tls, self._server_name, session, limit)

    def _unreachable(self, error: Exception) -> TransportError:
        if self._is_closed:
            return ClosedError("the API client is closed", unsent=True)
        return TransportError(
            f"cannot reach the API server {self._url.netloc}: {_explain(error)}", unsent=True
        )

    def _take_idle(self, generation: int) -> Connection | None:
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
            self.forget(connection)

    def _admit(self, connection: Connection) -> None:
        with self._lock:
            if not self._is_closed:
                self._live.add(connection)
                return
        connection.close()
        raise ClosedError("the API client is closed", unsent=True)

    def _remember_session(self, connection: Connection) -> None:
        if session := connection.tls_session():
            self._session = (connection.generation, session)


def _tunnel(connection: Connection, proxy: Proxy, target: tuple[str, int], limit: Deadline) -> None:
    host = f"[{target[0]}]" if ":" in target[0] else target[0]
    address = f"{host}:{target[1]}"
    request = f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n".encode("ascii")
    connection.send(request + proxy.authorization + b"\r\n", limit)
    head = connection.read_head(limit)
    if head.status != 200:
        raise TransportError(f"the proxy {proxy.host}:{proxy.port} answered {head.status}")


def _explain(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return str(error) or type(error).__name__
