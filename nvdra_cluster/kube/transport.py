"""Transport on the ``kubernetes`` client: its configuration, credentials, TLS and proxies, with raw bodies.

Requests go through the connection pool of ``kubernetes.client.rest``. Its generated methods are not used: they would
build model objects of 10,000 Nodes, and encode bodies that are bytes already. Deadlines and retries are ours.
"""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import urllib3
from kubernetes.client import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config import ConfigException
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util import parse_url

from nvdra_cluster.kube.config import AccessConfig
from nvdra_cluster.kube.connections import Connections
from nvdra_core.errors import ApiError, ConfigError
from nvdra_core.kube.errors import ClosedError, TransportError
from nvdra_core.kube.transport import (
    BODY_LIMIT_BYTES,
    LOOPBACK,
    SOCKET_OPTIONS,
    Request,
    RetryingTransport,
    TransportSettings,
)
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline

_LOG = log.get(__name__)
READ_SIZE_BYTES = 64 * 1024
CONNECT_TIMEOUT_S = 5.0
TLS_RENEWAL_INTERVAL_S = 5.0
"""Minimum between two readings of the CA and the client certificate after TLS errors."""
TOKEN_INTERVAL_S = 5.0
"""Minimum between two readings of the token: the package runs an exec plugin again at each one, from five minutes
before the credential expires.
"""
CREDENTIAL_WAIT_S = 2.0
"""A request waits so long for an exec plugin, which may hang, and then uses the credential at hand."""
POOL_SIZE = 24
"""Seven watches, eight writers, the Lease, the verifier, and the reconcile loop."""


@dataclass(slots=True)
class _Session:
    """One reading of the access configuration, and the connections made with it."""

    configuration: Configuration
    http: RESTClientObject
    authorization: str
    """Value of the header; empty without a token."""
    token_read_at_s: float = -math.inf
    token_error: Exception | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the token is read."""

    def read_token(self) -> None:
        """Read a rotated token, or run an exec plugin whose credential expires soon; releases ``lock``."""
        try:
            token = self.configuration.get_api_key_with_prefix("BearerToken")
            self.authorization = _header(token)
        except (ConfigException, OSError, ValueError) as error:
            self.token_error = error
        finally:
            self.lock.release()


class KubernetesTransport(RetryingTransport):
    """See the module. Safe for several threads."""

    def __init__(self, access: AccessConfig, clock: Clock, settings: TransportSettings) -> None:
        super().__init__(clock, settings)
        self._access = access
        self._lock = threading.Lock()
        self._renewal = threading.Lock()
        self._tls_renewed_at_s = -math.inf
        self._connections = Connections()
        self._session = self._open()
        self._headers = {"User-Agent": settings.user_agent, "Accept": "application/json"}

    def close(self) -> None:
        """See RetryingTransport; requests that wait for an answer end at once, too."""
        super().close()
        self._connections.end()
        self._session.http.close()

    def renew_credentials(self) -> bool:
        """See RetryingTransport. Threads that are refused at the same time share one renewal."""
        refused = self._session
        if self._renewal.acquire(timeout=CREDENTIAL_WAIT_S):
            if self._session is refused:
                _run_briefly(self._renew)
            else:
                self._renewal.release()
        return self._session is not refused

    def _renew(self) -> None:
        try:
            self._session = self._open()
        except (ConfigError, OSError) as error:
            _LOG.warning("cannot read the credentials again", error)
        finally:
            self._renewal.release()

    def send(self, request: Request, timeout_s: float) -> urllib3.BaseHTTPResponse:
        """Send and wait for the response's headers. Raises TransportError; the caller closes the response."""
        if self.closed.is_set():
            raise ClosedError("the API client is closed")
        session, deadline = self._session, Deadline(timeout_s, self.clock)
        try:
            headers = self._headers_of(request, session)
            # Half for TCP and half for TLS: the request is sent before the time is over.
            connect_s = min(CONNECT_TIMEOUT_S, deadline.remaining_s() / 2)
            if connect_s <= 0.0:
                raise TransportError("credentials: no answer in time", unsent=True)
            return session.http.pool_manager.request(
                request.method,
                session.configuration.host + request.target,
                body=request.body or None,
                headers=headers,
                timeout=urllib3.Timeout(total=deadline.remaining_s(), connect=connect_s),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, urllib3.exceptions.SSLError):
                self._renew_tls()
            raise self.broken(request, error) from error
        except (ConfigException, ValueError) as error:  # an empty or malformed token
            raise TransportError(f"credentials: {error}", unsent=True) from error

    def _renew_tls(self) -> None:
        """After a TLS error: the CA or the client certificate may have been rotated."""
        now_s = self.clock.monotonic()
        with self._lock:
            if now_s - self._tls_renewed_at_s < TLS_RENEWAL_INTERVAL_S:
                return
            self._tls_renewed_at_s = now_s
        self.renew_credentials()

    def broken(self, request: Request, error: Exception) -> TransportError:
        """The error for a request without a complete response."""
        if self.closed.is_set():
            return ClosedError("the API client is closed")
        is_unsent = isinstance(error, NewConnectionError | ConnectTimeoutError)
        return TransportError(f"{request.method} {request.target}: {error}", unsent=is_unsent)

    def _attempt(self, request: Request, deadline: Deadline) -> bytes:
        limit = deadline.within(self.settings.attempt_timeout_s)
        if limit.remaining_s() <= 0.0:
            raise TransportError(f"{request.method} {request.target}: no time left", unsent=True)
        response = self.send(request, limit.remaining_s())
        try:
            body = self._read(request, response, limit)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            response.close()
            raise self.broken(request, error) from error
        except ApiError:
            response.close()
            raise
        response.release_conn()
        self.check(request, response.status, response.headers, body)
        return body

    def _read(self, request: Request, response: urllib3.BaseHTTPResponse, limit: Deadline) -> bytes:
        body, sock = bytearray(), socket_of(response)
        while True:
            if (left_s := limit.remaining_s()) <= 0.0:
                raise TransportError(f"{request.method} {request.target}: no answer in time")
            if sock is not None and sock.fileno() >= 0:
                sock.settimeout(left_s)
            if not (piece := response.read1(READ_SIZE_BYTES)):
                return bytes(body)
            body += piece
            if len(body) > BODY_LIMIT_BYTES:
                raise TransportError(f"{request.method} {request.target}: response is too large")

    def _headers_of(self, request: Request, session: _Session) -> dict[str, str]:
        headers = dict(self._headers)
        if request.body:
            headers["Content-Type"] = request.content_type
        if authorization := self._authorization(session):
            headers["Authorization"] = authorization
        return headers

    def _authorization(self, session: _Session) -> str:
        """The header; a rotated token is read, or an exec plugin run, in one thread at a time."""
        now_s = self.clock.monotonic()
        if now_s - session.token_read_at_s >= TOKEN_INTERVAL_S and session.lock.acquire(False):
            session.token_error = None
            _run_briefly(session.read_token)
            if session.token_error is None:
                session.token_read_at_s = now_s
            else:
                raise session.token_error
        return session.authorization

    def _open(self) -> _Session:
        configuration = self._access.load()
        configuration.connection_pool_maxsize = POOL_SIZE
        configuration.socket_options = list(SOCKET_OPTIONS)
        host = urlsplit(configuration.host).hostname
        if host in LOOPBACK and configuration.proxy == Configuration(host=configuration.host).proxy:
            configuration.proxy = None  # of the environment, which is not for this machine
        if configuration.proxy and (credentials := parse_url(configuration.proxy).auth):
            # Neither the kubernetes client nor urllib3 sends those of the proxy's URL.
            headers = urllib3.make_headers(proxy_basic_auth=unquote(credentials))
            configuration.proxy_headers = headers
        authorization = _header(configuration.api_key.get("BearerToken"))
        http = RESTClientObject(configuration)
        self._connections.follow(http.pool_manager)
        return _Session(configuration, http, authorization)


def socket_of(response: urllib3.BaseHTTPResponse) -> socket.socket | None:
    """The response's socket; http.client moves it there when the server announces ``Connection: close``."""
    raw = getattr(getattr(getattr(response, "_fp", None), "fp", None), "raw", None)
    found = getattr(response.connection, "sock", None) or getattr(raw, "_sock", None)
    return found if isinstance(found, socket.socket) else None


def _run_briefly(target: Callable[[], None]) -> None:
    """Run in a thread, and wait for it for CREDENTIAL_WAIT_S at most."""
    thread = threading.Thread(target=target, name="credentials", daemon=True)
    thread.start()
    thread.join(CREDENTIAL_WAIT_S)


def _header(token: str | None) -> str:
    """A token without the line end of its file."""
    return (token or "").strip()
