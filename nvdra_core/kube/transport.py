"""Retries of HTTP exchanges with the API server, on any HTTP client; knows no object kinds.

Warnings of the server are logged once each. Requests are not rate limited: callers bound their own rate.
"""

from __future__ import annotations

import logging
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from email.message import Message

import msgspec

from nvdra_core import __version__
from nvdra_core.errors import ApiError
from nvdra_core.kube.errors import ClosedError, status_error
from nvdra_core.kube.retry import Backoff, is_retryable, parse_retry_after
from nvdra_core.runtime.clock import Clock, Deadline

BODY_LIMIT_BYTES = 256 * 1024 * 1024
SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
"""A half-open connection is noticed after about 30 s, also by a watch that only reads."""
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
"""Hosts that may be reached by plain HTTP."""
IDEMPOTENT_METHODS = frozenset({"GET", "PUT", "DELETE"})
WARNINGS_REMEMBERED = 256

_LOG = logging.getLogger(__name__)


class TransportSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times are seconds. ``request_timeout_s`` holds for a request without a deadline, all its retries included.

    ``attempt_timeout_s`` bounds one attempt, so that a silent server costs one attempt and not the whole deadline.
    """

    request_timeout_s: float = 30.0
    attempt_timeout_s: float = 10.0
    backoff: Backoff = msgspec.field(default_factory=Backoff)
    user_agent: str = f"nvdra/{__version__}"


class Request(msgspec.Struct, frozen=True):
    """What to send; ``target`` is path and query. ``is_idempotent`` None: as the method says."""

    method: str
    target: str
    body: bytes = b""
    content_type: str = "application/json"
    is_idempotent: bool | None = None


class RetryingTransport(ABC):
    """Repeats attempts until a deadline; a subclass makes the attempt."""

    def __init__(self, clock: Clock, settings: TransportSettings) -> None:
        self.clock = clock
        self.settings = settings
        self.closed = threading.Event()
        self._warned: set[str] = set()

    @abstractmethod
    def _attempt(self, request: Request, deadline: Deadline) -> bytes:
        """Send once; the body of a 2xx response. Raises ApiError."""

    @abstractmethod
    def renew_credentials(self) -> bool:
        """Read the credentials again after a 401; whether a repetition may help."""

    def close(self) -> None:
        """End pauses between attempts; further requests raise ClosedError."""
        self.closed.set()

    def exchange(self, request: Request, deadline: Deadline | None = None) -> bytes:
        """Send until answered; returns the body of a 2xx answer. Raises ApiError, the last one met."""
        deadline = deadline or Deadline(self.settings.request_timeout_s, self.clock)
        is_idempotent = request.is_idempotent
        if is_idempotent is None:
            is_idempotent = request.method in IDEMPOTENT_METHODS
        attempt = 0
        may_renew = True
        while True:
            try:
                return self._attempt(request, deadline)
            except ApiError as error:
                if error.status == 401 and may_renew and self.renew_credentials():
                    may_renew = False  # the token was rotated; a second refusal is final
                    continue
                if not is_retryable(error, is_idempotent=is_idempotent):
                    raise
                self._pause(error, attempt, deadline)
            attempt += 1

    def _pause(self, error: ApiError, attempt: int, deadline: Deadline) -> None:
        """Wait before the next attempt; raises ``error`` when it would not fit into the deadline."""
        pause_s = self.settings.backoff.pause_s(attempt)
        if error.retry_after_s is not None:
            pause_s += error.retry_after_s
        if pause_s >= deadline.remaining_s():
            raise error
        if self.clock.wait(self.closed, pause_s):
            raise ClosedError("the API client is closed") from error

    def check(
        self, request: Request, status: int, headers: Message | Mapping[str, str], body: bytes
    ) -> None:
        """Raise ApiError for a response outside 2xx; log warnings of the server once each."""
        many = headers.get_all("Warning", []) if isinstance(headers, Message) else None
        for warning in [headers.get("Warning", "")] if many is None else many:
            self._warn(warning)
        if not 200 <= status < 300:
            retry_after_s = parse_retry_after(headers.get("Retry-After") or "")
            what = f"{request.method} {request.target.partition('?')[0]}"
            raise status_error(what, status, body, retry_after_s)

    def _warn(self, text: str) -> None:
        if text and text not in self._warned and len(self._warned) < WARNINGS_REMEMBERED:
            self._warned.add(text)
            _LOG.warning("the API server warns: %s", text[:1024])
