"""Operations on systemd units: their protocol, and the client of the unit broker.

Only nvdra-unit-broker.service has access to systemd's socket. Services send it one JSON line per connection on a unix
socket and get one line back. ``host.systemctl`` implements the same protocol inside the broker.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from nvdra_core.errors import HostError, NotReadyError
from nvdra_core.runtime.clock import Clock, Deadline

MAX_REQUEST_BYTES = 4096
MAX_REPLY_BYTES = 65536
MAX_TIMEOUT_S = 60.0
"""The longest that one request may take in the broker."""
RETRY_S = 2.0
"""How long an unreachable broker is retried: it may be restarting."""
PAUSE_S = 0.05
ANSWER_S = 1.5
"""Part of the deadline that is left for the broker to end a program and answer."""

Properties = dict[str, str]
"""Properties of one unit as ``systemctl show`` names them."""


class Units(Protocol):
    """Operations on units, by full name. All raise HostError, and each may be repeated."""

    def show(self, names: Sequence[str], deadline: Deadline) -> dict[str, Properties]:
        """State of the units, by their Id. A unit that systemd does not know is inactive."""

    def start(self, name: str, deadline: Deadline) -> None:
        """``systemctl start``: returns when the start job is done."""

    def stop(self, name: str, deadline: Deadline) -> None:
        """``systemctl stop``: returns when the unit has stopped."""

    def reload(self, name: str, deadline: Deadline) -> None:
        """Send SIGUSR1 to the unit."""

    def reset_failed(self, name: str, deadline: Deadline) -> None:
        """``systemctl reset-failed``."""


class BrokerUnits:
    """Units through the broker. Safe for several threads; every call is a connection of its own."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    def show(self, names: Sequence[str], deadline: Deadline) -> dict[str, Properties]:
        """See Units."""
        found = self._call("show", names, deadline)
        try:
            return msgspec.convert(found, dict[str, Properties])
        except msgspec.ValidationError as error:
            raise HostError(f"unit broker {self._path}: invalid answer to show: {error}") from error

    def start(self, name: str, deadline: Deadline) -> None:
        """See Units."""
        self._call("start", [name], deadline)

    def stop(self, name: str, deadline: Deadline) -> None:
        """See Units."""
        self._call("stop", [name], deadline)

    def reload(self, name: str, deadline: Deadline) -> None:
        """See Units."""
        self._call("reload", [name], deadline)

    def reset_failed(self, name: str, deadline: Deadline) -> None:
        """See Units."""
        self._call("reset-failed", [name], deadline)

    def ping(self, deadline: Deadline) -> None:
        """Check that the broker answers. Raises HostError."""
        self._call("ping", [], deadline)

    def _call(self, verb: str, names: Sequence[str], deadline: Deadline) -> Any:
        """One request. A broken connection is opened again: every verb may be repeated."""
        patience = Deadline(min(RETRY_S, deadline.remaining_s() / 2), self._clock)
        while True:
            remaining_s = max(0.01, deadline.remaining_s())
            # The broker times out first: it can name what it waits for.
            timeout_s = min(MAX_TIMEOUT_S, max(remaining_s - ANSWER_S, remaining_s / 2))
            body = {"verb": verb, "units": list(names), "timeoutSeconds": timeout_s}
            try:
                return self._result(self._exchange(msgspec.json.encode(body) + b"\n", deadline))
            except TimeoutError:
                what = f"{verb} {' '.join(names)}".strip()
                raise HostError(
                    f"unit broker {self._path}: no answer to {what} in time; see"
                    " journalctl -u nvdra-unit-broker"
                ) from None
            except OSError as error:
                if not patience.remaining_s():
                    raise HostError(
                        f"unit broker {self._path}: {error.strerror or error}; see systemctl status"
                        " nvdra-unit-broker.socket"
                    ) from error
                self._clock.wait(threading.Event(), PAUSE_S)

    def _exchange(self, request: bytes, deadline: Deadline) -> bytes:
        """Send one line and read one. Raises TimeoutError and OSError."""
        with socket.socket(socket.AF_UNIX) as connection:
            _limit(connection, deadline)
            connection.connect(str(self._path))
            # A broker that refuses a connection answers without reading; its answer is read below.
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(request)
            reply = b""
            while not reply.endswith(b"\n") and len(reply) <= MAX_REPLY_BYTES:
                _limit(connection, deadline)
                data = connection.recv(MAX_REPLY_BYTES)
                if not data:
                    raise ConnectionResetError(None, "it closed the connection without an answer")
                reply += data
            return reply

    def _result(self, reply: bytes) -> Any:
        try:
            found = msgspec.json.decode(reply)
        except msgspec.DecodeError as error:
            raise HostError(f"unit broker {self._path}: the answer is no JSON: {error}") from error
        if not isinstance(found, dict) or "result" not in found:
            text = found.get("error", "no result") if isinstance(found, dict) else "no object"
            if isinstance(found, dict) and found.get("reason") == NotReadyError.reason:
                raise ConnectionRefusedError(None, text)
            raise HostError(f"unit broker: {text}")
        return found["result"]


def _limit(connection: socket.socket, deadline: Deadline) -> None:
    remaining_s = deadline.remaining_s()
    if not remaining_s:
        raise TimeoutError
    connection.settimeout(remaining_s)
