"""Socket server of the broker: one thread accepts and identifies callers, a pool serves one request per connection.

A unit has at most ``MAX_CALLS`` at once; further ones, and callers without permission, get an error at once. Stateless:
no request can end it.
"""

from __future__ import annotations

import select
import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from nvdra_core.errors import NotReadyError, NvdraError, UnitRequestError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.broker import policy
from nvdra_node.broker.policy import PERMISSIONS, Request
from nvdra_node.host.units import MAX_REQUEST_BYTES, MAX_TIMEOUT_S, Units

_LOG = log.get(__name__)

MAX_CALLS = 4
"""Concurrent calls of one unit."""
REQUEST_TIMEOUT_S = 5.0
"""For sending the request, and for reading the answer."""
ACCEPT_RETRY_S = 0.2
"""After a failed accept (no file descriptors left)."""

Identify = Callable[[socket.socket], str]
"""The caller's unit; raises UnitRequestError. See ``caller.unit_of_peer``."""


class Server:
    """See the module."""

    def __init__(
        self,
        listener: socket.socket,
        units: Units,
        identify: Identify,
        clock: Clock,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        """``listener`` is listening, and never shut down, as systemd may hold it too."""
        self._request_timeout_s = request_timeout_s
        self._listener = listener
        self._units = units
        self._identify = identify
        self._clock = clock
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._pool = ThreadPoolExecutor(len(PERMISSIONS) * MAX_CALLS, thread_name_prefix="call")
        self._is_closed = False
        self._wake_r, self._wake_w = socket.socketpair()
        listener.setblocking(False)

    def run(self, stopping: threading.Event) -> None:
        """Accept until ``stopping`` and ``close``."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        while not stopping.is_set():
            poll.poll()
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:  # woken by ``close``, or the caller has left
                continue
            except OSError as error:
                _LOG.warning("cannot accept a connection", error)
                self._clock.wait(stopping, ACCEPT_RETRY_S)
                continue
            self._submit(connection)
        self._wake_r.close()

    def close(self) -> None:
        """Wake ``run`` after ``stopping`` was set. Calls that fail now get no answer, so that callers retry."""
        self._is_closed = True
        self._wake_w.close()  # the other end becomes readable
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, connection: socket.socket) -> None:
        """Submit a connection to the pool, or refuse it."""
        try:
            connection.settimeout(self._request_timeout_s)
            caller = self._identify(connection)
            with self._lock:
                if self._calls[caller] >= MAX_CALLS:
                    raise NotReadyError(
                        f"{caller}: {MAX_CALLS} calls at once are in progress; try again"
                    )
                self._calls[caller] += 1
        except (NvdraError, OSError) as error:
            _LOG.warning("connection refused", error)
            _refuse(connection, error)
            return
        try:
            self._pool.submit(self._serve, connection, caller)
        except RuntimeError as error:  # closed meanwhile
            self._end_call(caller)
            _refuse(connection, error)

    def _serve(self, connection: socket.socket, caller: str) -> None:
        """Serve one call, in the pool."""
        try:
            with connection:
                connection.sendall(msgspec.json.encode(self._answer(connection, caller)) + b"\n")
        except OSError as error:
            _LOG.info("caller left before its answer", v=2, caller=caller, error=str(error))
        finally:
            self._end_call(caller)

    def _end_call(self, caller: str) -> None:
        with self._lock:
            self._calls[caller] -= 1

    def _answer(self, connection: socket.socket, caller: str) -> dict[str, Any]:
        """Raises OSError when the caller has left."""
        try:
            request = policy.parse(self._read(connection))
            policy.check(caller, request)
            return {"result": self._run(request)}
        except UnitRequestError as error:
            _LOG.warning("request refused", error, caller=caller)
            return {"error": str(error), "reason": error.reason}
        except NvdraError as error:
            if self._is_closed:
                raise ConnectionAbortedError(None, "the broker is stopping") from error
            _LOG.info("request failed", v=1, caller=caller, error=str(error))
            return {"error": str(error), "reason": error.reason}
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug costs one call and not the service
            _LOG.error("request failed unexpectedly", error, caller=caller)
            return {"error": f"internal error: {error!r}", "reason": NvdraError.reason}

    def _read(self, connection: socket.socket) -> bytes:
        """The request's line. Raises UnitRequestError if it is too long or incomplete, OSError if the caller left."""
        deadline = Deadline(self._request_timeout_s, self._clock)
        data = b""
        while b"\n" not in data:
            if len(data) > MAX_REQUEST_BYTES:
                raise UnitRequestError(f"invalid request: more than {MAX_REQUEST_BYTES} bytes")
            if not (remaining_s := deadline.remaining_s()):
                raise UnitRequestError(
                    f"invalid request: no complete line within {self._request_timeout_s:g} s"
                )
            connection.settimeout(remaining_s)
            try:
                piece = connection.recv(MAX_REQUEST_BYTES)
            except TimeoutError:
                continue
            if not piece:
                raise UnitRequestError("invalid request: the line is incomplete")
            data += piece
        connection.settimeout(self._request_timeout_s)
        line = data.partition(b"\n")[0]
        if len(line) > MAX_REQUEST_BYTES:
            raise UnitRequestError(f"invalid request: more than {MAX_REQUEST_BYTES} bytes")
        return line

    def _run(self, request: Request) -> Any:
        """Execute a request. Raises HostError."""
        deadline = Deadline(min(request.timeout_seconds, MAX_TIMEOUT_S), self._clock)
        if request.verb == "ping":
            return {}
        if request.verb == "show":
            return self._units.show(request.units, deadline)
        operations = {
            "start": self._units.start,
            "stop": self._units.stop,
            "reload": self._units.reload,
            "reset-failed": self._units.reset_failed,
        }
        [unit] = request.units
        _LOG.info("unit operation", verb=request.verb, unit=unit)
        operations[request.verb](unit, deadline)
        return {}


def _refuse(connection: socket.socket, error: BaseException) -> None:
    """Answer with an error, without waiting for the caller."""
    reason = error.reason if isinstance(error, NvdraError) else NotReadyError.reason
    with connection:
        try:
            connection.setblocking(False)
            body = {"error": str(error), "reason": reason}
            connection.send(msgspec.json.encode(body) + b"\n")
        except OSError:
            return  # the caller has left
