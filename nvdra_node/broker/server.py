"""The broker's socket: one thread accepts and identifies callers, a pool answers one request per connection.

Nothing that a caller sends, and no number of callers, ends it or takes more than a fixed number of threads: a unit has
``MAX_CALLS`` at once, everybody else is answered with an error and dropped. It keeps no state.
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
"""Calls of one unit at once."""
REQUEST_S = 5.0
"""How long a caller may take to send its line, and to take the answer."""
PAUSE_S = 0.2
"""After an accept that failed (no file descriptors left)."""

Identify = Callable[[socket.socket], str]
"""The caller's unit; raises UnitRequestError. See ``caller.unit_of_peer``."""


class Server:
    """See the module. ``listener`` is bound and listening; systemd may have it, too, so it is never shut down."""

    def __init__(
        self, listener: socket.socket, units: Units, identify: Identify, clock: Clock
    ) -> None:
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
            except BlockingIOError:  # woken, or the caller has gone already
                continue
            except OSError as error:
                _LOG.warning("cannot accept a connection", error)
                self._clock.wait(stopping, PAUSE_S)
                continue
            self._take(connection)
        self._wake_r.close()

    def close(self) -> None:
        """End ``run``, whose ``stopping`` is set. From now on no failure is answered: callers ask the next instance."""
        self._is_closed = True
        self._wake_w.close()  # the other end becomes readable
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _take(self, connection: socket.socket) -> None:
        """Hand one connection to the pool, or drop it with an error."""
        try:
            connection.settimeout(REQUEST_S)
            caller = self._identify(connection)
            with self._lock:
                if self._calls[caller] >= MAX_CALLS:
                    raise NotReadyError(
                        f"{caller}: {MAX_CALLS} calls at once are under way; try again"
                    )
                self._calls[caller] += 1
        except (NvdraError, OSError) as error:
            _LOG.warning("connection refused", error)
            _drop(connection, error)
            return
        try:
            self._pool.submit(self._serve, connection, caller)
        except RuntimeError as error:  # closed meanwhile
            self._leave(caller)
            _drop(connection, error)

    def _serve(self, connection: socket.socket, caller: str) -> None:
        """One call, in the pool."""
        try:
            with connection:
                connection.sendall(msgspec.json.encode(self._answer(connection, caller)) + b"\n")
        except OSError as error:
            _LOG.info("a caller left before its answer", v=2, caller=caller, error=str(error))
        finally:
            self._leave(caller)

    def _leave(self, caller: str) -> None:
        with self._lock:
            self._calls[caller] -= 1

    def _answer(self, connection: socket.socket, caller: str) -> dict[str, Any]:
        """Raises OSError when the caller has gone or sends nothing."""
        try:
            request = policy.parse(self._read(connection))
            policy.check(caller, request)
            return {"result": self._run(request)}
        except UnitRequestError as error:
            _LOG.warning("request refused", error, caller=caller)
            return {"error": str(error), "reason": error.reason}
        except NvdraError as error:
            if self._is_closed:
                raise ConnectionAbortedError(None, "the broker ends") from error
            _LOG.info("request failed", v=1, caller=caller, error=str(error))
            return {"error": str(error), "reason": error.reason}
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug of ours costs one call and not the service
            _LOG.error("request failed unexpectedly", error, caller=caller)
            return {"error": f"internal error: {error!r}", "reason": NvdraError.reason}

    def _read(self, connection: socket.socket) -> bytes:
        """The line. Raises UnitRequestError when it is too long or incomplete, OSError when it does not come."""
        deadline = Deadline(REQUEST_S, self._clock)
        data = b""
        while b"\n" not in data:
            if len(data) > MAX_REQUEST_BYTES:
                raise UnitRequestError(f"invalid request: more than {MAX_REQUEST_BYTES} bytes")
            if not (remaining_s := deadline.remaining_s()):
                raise UnitRequestError(f"invalid request: no complete line within {REQUEST_S:g} s")
            connection.settimeout(remaining_s)
            try:
                piece = connection.recv(MAX_REQUEST_BYTES)
            except TimeoutError:
                continue
            if not piece:
                raise UnitRequestError("invalid request: the line is incomplete")
            data += piece
        connection.settimeout(REQUEST_S)
        line = data.partition(b"\n")[0]
        if len(line) > MAX_REQUEST_BYTES:
            raise UnitRequestError(f"invalid request: more than {MAX_REQUEST_BYTES} bytes")
        return line

    def _run(self, request: Request) -> Any:
        """Do it. Raises HostError."""
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


def _drop(connection: socket.socket, error: BaseException) -> None:
    """Answer with an error without waiting for the caller."""
    reason = error.reason if isinstance(error, NvdraError) else NotReadyError.reason
    with connection:
        try:
            connection.setblocking(False)
            body = {"error": str(error), "reason": reason}
            connection.send(msgspec.json.encode(body) + b"\n")
        except OSError:
            return  # it has gone
