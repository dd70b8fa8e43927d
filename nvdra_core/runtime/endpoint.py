"""The HTTP endpoint of a process: metrics and health, read-only, on the loopback unless configured
otherwise.

Built by ``cli`` as a part of the service. A few lines over ``socketserver``: ``http.server`` would
cost each process 1.2 MB. One request a connection, a few connections at a time, all with a timeout,
so that a stuck or hostile reader cannot hold anything up.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Mapping, Sequence

import msgspec

from nvdra_core.errors import ConfigError, DeadlineError, HostError
from nvdra_core.runtime import log, metrics
from nvdra_core.runtime.clock import Clock, Deadline

_LOG = log.get(__name__)
_MAX_CONNECTIONS = 8
_TIMEOUT_S = 5.0
_MAX_REQUEST = 16384
_ACCEPT_PAUSE_S = 1.0
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"} | {
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Response(msgspec.Struct, frozen=True):
    """What a route answers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Route = Callable[[], Response]


def metrics_route(registry: metrics.Registry) -> Route:
    """Answers everything in ``registry`` as Prometheus text."""
    return lambda: Response(200, registry.render(), metrics.CONTENT_TYPE)


def health_route(
    problems: Callable[[], list[str]], notes: Callable[[], Sequence[str]] = tuple
) -> Route:
    """Answers 200 ``ok`` while ``problems`` finds none, else 503 and the problems, one a line; then
    the notes, one a line.
    """

    def answer() -> Response:
        found = problems()
        text = "\n".join([*(found or ["ok"]), *(f"note: {note}" for note in notes())])
        return Response(503 if found else 200, f"{text}\n".encode("utf-8", "backslashreplace"))

    return answer


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
    """A part of the service that answers GET and HEAD on its routes. ``start`` binds, ``stop``
    closes.
    """

    name = "http endpoint"

    def __init__(self, address: Address, routes: Mapping[str, Route], clock: Clock) -> None:
        self._address = address
        self._routes = dict(routes)
        self._clock = clock
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)

    @property
    def address(self) -> Address:
        """Where it listens; after ``start`` with the true port when 0 was asked for."""
        return self._address

    def start(self) -> None:
        """Listen and serve. Raises ConfigError (this address can never be had) or HostError (in use
        now).
        """
        self._listener = _listen(self._address)
        self._address = Address(self._address.host, self._listener.getsockname()[1])
        self._thread = threading.Thread(
            target=self._accept, args=(self._listener,), name=self.name, daemon=True
        )
        self._thread.start()
        _LOG.info("serving HTTP", address=self._address, paths=",".join(self._routes))

    def stop(self, deadline: Deadline) -> None:
        """Stop listening. Answers under way are not waited for: their readers come again."""
        if self._listener is None or self._thread is None:
            return
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept; closing alone would not
        self._thread.join(deadline.remaining_s())
        self._listener.close()
        self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                peer, _ = listener.accept()
            except OSError as error:
                if not self._stopping.is_set():
                    _LOG.warning("cannot accept an HTTP connection", error)
                    self._stopping.wait(_ACCEPT_PAUSE_S)  # out of descriptors, say: do not spin
                continue
            if not self._slots.acquire(blocking=False):
                peer.close()
                continue
            self._start_serving(peer)

    def _start_serving(self, peer: socket.socket) -> None:
        name = f"{self.name} connection"
        try:
            threading.Thread(target=self._serve, args=(peer,), name=name, daemon=True).start()
        except RuntimeError as error:
            _LOG.warning("no thread for an HTTP connection; closing it", error)
            peer.close()
            self._slots.release()

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer:
                peer.sendall(self._reply(_read_request(peer, Deadline(_TIMEOUT_S, self._clock))))
        except (OSError, DeadlineError) as error:
            # Readers that hang up or dawdle are their own business.
            _LOG.info("HTTP connection broke off", v=6, error=error)
        except Exception as error:  # noqa: BLE001 - the border: no request may stop the process
            _LOG.error("HTTP connection failed", error)
        finally:
            self._slots.release()

    def _reply(self, request: bytes) -> bytes:
        words = request.partition(b"\n")[0].decode("latin-1").split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _render(Response(400, b"bad request\n"))
        method, target, _version = words
        return _render(self._answer(method, target.partition("?")[0]), with_body=method != "HEAD")

    def _answer(self, method: str, path: str) -> Response:
        route = self._routes.get(path)
        if route is None:
            return Response(404, b"not found\n")
        if method not in ("GET", "HEAD"):
            return Response(405, b"method not allowed\n")
        try:
            return route()
        except Exception as error:  # noqa: BLE001 - the border of a request: logged, answered
            _LOG.error("HTTP request failed", error, path=path)
            return Response(500, b"internal error; see the log\n")


def _read_request(peer: socket.socket, deadline: Deadline) -> bytes:
    """Everything up to the empty line; what is longer than a request of ours is cut and answered
    400.
    """
    request = b""
    while not request.endswith((b"\r\n\r\n", b"\n\n")) and len(request) < _MAX_REQUEST:
        deadline.check("HTTP request")
        peer.settimeout(deadline.remaining_s() or _TIMEOUT_S)
        part = peer.recv(_MAX_REQUEST - len(request))
        if not part:
            break
        request += part
    return request


def _render(response: Response, *, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {response.status} {_REASONS[response.status]}\r\n"
        f"Content-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (response.body if with_body else b"")


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
