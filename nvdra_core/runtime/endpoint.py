"""The HTTP endpoint of a process: metrics and health, read-only, on the loopback unless configured otherwise.

A bounded number of connections at a time, one request each, all with a timeout: a stuck or hostile reader cannot
block the service or other readers.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest

from nvdra_core.errors import ConfigError, HostError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Deadline

_LOG = log.get(__name__)
_MAX_CONNECTIONS = 8
_TIMEOUT_S = 5.0
_ACCEPT_PAUSE_S = 1.0
_TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


class Response(msgspec.Struct, frozen=True):
    """What a route returns."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Route = Callable[[], Response]


def metrics_route(registry: CollectorRegistry) -> Route:
    """Serves everything in ``registry`` as Prometheus text."""
    return lambda: Response(200, generate_latest(registry), _TEXT_FORMAT)


def health_route(
    problems: Callable[[], list[str]], notes: Callable[[], Sequence[str]] = tuple
) -> Route:
    """Serves 200 ``ok`` without problems, else 503 and the problems, one a line; then the notes, one a line."""

    def serve() -> Response:
        found = problems()
        text = "\n".join([*(found or ["ok"]), *(f"note: {note}" for note in notes())])
        return Response(503 if found else 200, f"{text}\n".encode("utf-8", "backslashreplace"))

    return serve


class Address(msgspec.Struct, frozen=True):
    """Where to listen. An empty ``host`` means every address of the machine, IPv6 and IPv4."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``127.0.0.1:8080``, ``[::1]:8080`` or ``:8080`` (everywhere). Raises ConfigError."""
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
        if not colon or not is_port or (":" in host and not bracketed):
            raise ConfigError(
                f'HTTP endpoint "{text}": expected HOST:PORT such as 127.0.0.1:8080 or [::1]:8080'
            )
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Endpoint:
    """A part of the service that serves GET and HEAD on its routes. ``start`` binds, ``stop`` closes."""

    name = "http endpoint"

    def __init__(
        self, address: Address, routes: Mapping[str, Route], timeout_s: float = _TIMEOUT_S
    ) -> None:
        """``timeout_s``: for reading a whole request, and for each write."""
        self._address = address
        self._timeout_s = timeout_s
        self._routes = dict(routes)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> Address:
        """Where it listens; after ``start`` with the bound port if 0 was configured."""
        return self._address

    def start(self) -> None:
        """Listen and serve. Raises ConfigError (not an address of this machine) or HostError (in use now)."""
        listener = _listen(self._address)
        self._address = Address(self._address.host, listener.getsockname()[1])
        self._server = _Server(listener, self._routes, self._timeout_s)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name=self.name, daemon=True
        )
        self._thread.start()
        _LOG.info("serving HTTP", address=self._address, paths=",".join(self._routes))

    def stop(self, deadline: Deadline) -> None:
        """Stop listening. Does not wait for requests in progress: their readers repeat them."""
        if self._server is None or self._thread is None:
            return
        self._server.stop()
        self._thread.join(deadline.remaining_s())
        self._server = None


class _Server(ThreadingHTTPServer):
    """A thread for each of at most _MAX_CONNECTIONS connections; more are closed at once."""

    block_on_close = False

    def __init__(
        self, listener: socket.socket, routes: Mapping[str, Route], timeout_s: float
    ) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = (
            listener  # bound without HTTPServer.server_bind, which asks DNS for the host's name
        )
        self.routes = routes
        self.timeout_s = timeout_s
        self._slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End serve_forever and close the listener."""
        self._stopping.set()
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes serve_forever before its poll interval
        self.shutdown()
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        """See TCPServer. Pauses after an error such as EMFILE, or serve_forever would spin."""
        try:
            return self.socket.accept()
        except OSError as error:
            if not self._stopping.is_set():
                _LOG.warning("cannot accept an HTTP connection", error)
                self._stopping.wait(_ACCEPT_PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """See ThreadingMixIn."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError as error:  # no thread
            _LOG.warning("no thread for an HTTP connection; closing it", error)
            self.shutdown_request(request)
            self._slots.release()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """See ThreadingMixIn."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """See BaseServer. Readers may disconnect or time out at any moment."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, OSError):
            _LOG.error("HTTP connection failed", error)
        else:
            _LOG.info("HTTP connection broke off", v=6, error=error)


class _Handler(BaseHTTPRequestHandler):
    """One request of one connection."""

    server: _Server
    server_version = "nvdra"
    sys_version = ""
    error_content_type = "text/plain"
    error_message_format = "%(message)s\n"

    def setup(self) -> None:
        """See StreamRequestHandler."""
        super().setup()
        self.connection.settimeout(self.server.timeout_s)  # of each read and write

    def handle(self) -> None:
        """See BaseHTTPRequestHandler. ``timeout`` alone would let a client that sends byte by byte stay."""
        self._read_limit = threading.Timer(self.server.timeout_s, self._end_reading)
        self._read_limit.daemon = True
        self._read_limit.start()
        try:
            super().handle()
        finally:
            self._read_limit.cancel()

    def _end_reading(self) -> None:
        with contextlib.suppress(OSError):  # already closed
            self.connection.shutdown(socket.SHUT_RD)

    def do_GET(self) -> None:
        """Serve the route of the path."""
        self._read_limit.cancel()
        route = self.server.routes.get(self.path.partition("?")[0])
        if route is None:
            self.send_error(404)
            return
        try:
            response = route()
        except Exception as error:  # noqa: BLE001 - top of a request: logged, answered 500
            _LOG.error("HTTP request failed", error, path=self.path)
            self.send_error(500, "internal error; see the log")
            return
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """See BaseHTTPRequestHandler."""
        _LOG.info("HTTP request", v=6, peer=self.client_address[0], request=format % args)


def _listen(address: Address) -> socket.socket:
    everywhere = not address.host
    try:
        if everywhere and socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", address.port), family=socket.AF_INET6, dualstack_ipv6=True
            )
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        message = f"HTTP endpoint {address}: cannot listen: {error.strerror or error}"
        if error.errno == errno.EADDRINUSE:
            raise HostError(f"{message}; stop the other listener or choose another port") from error
        raise ConfigError(f"{message}; choose an address and port of this machine") from error
