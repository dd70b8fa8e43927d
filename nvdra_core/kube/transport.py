"""One HTTP exchange with the API server, with retries until a deadline. Under the client; knows no object kinds.

In: method, path with query, body. Out: the answer's body, or ApiError (status 0 when no answer came). Warnings of the
server are logged once each. No limiter: the callers' own pace is the limit.
"""

from __future__ import annotations

import logging
import threading

import msgspec

from nvdra_core import __version__
from nvdra_core.errors import ApiError
from nvdra_core.kube import proxy as proxies
from nvdra_core.kube.config import KubeConfig
from nvdra_core.kube.credentials import Credentials, CredentialSource
from nvdra_core.kube.errors import ClosedError, TransportError, status_error
from nvdra_core.kube.pool import Pool
from nvdra_core.kube.proxy import ProxySettings
from nvdra_core.kube.retry import Backoff, is_retryable, parse_retry_after
from nvdra_core.kube.wire import Connection, Head
from nvdra_core.runtime.clock import Clock, Deadline

IDEMPOTENT_METHODS = frozenset({"GET", "PUT", "DELETE"})
WARNINGS_REMEMBERED = 256

log = logging.getLogger(__name__)


class TransportSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times are seconds. ``request_timeout_s`` holds for a request without a deadline, all its retries included.

    ``attempt_timeout_s`` bounds one attempt, so that a silent server costs one attempt and not the whole deadline.
    """

    request_timeout_s: float = 30.0
    attempt_timeout_s: float = 10.0
    backoff: Backoff = msgspec.field(default_factory=Backoff)
    proxy: ProxySettings = msgspec.field(default_factory=ProxySettings)
    user_agent: str = f"nvdra/{__version__}"


class Request(msgspec.Struct, frozen=True):
    """What to send; ``target`` is path and query. ``is_idempotent`` None: as the method says."""

    method: str
    target: str
    body: bytes = b""
    content_type: str = "application/json"
    is_idempotent: bool | None = None


class Transport:
    """See the module. Safe for several threads; ``close`` wakes all of them."""

    def __init__(self, config: KubeConfig, clock: Clock, settings: TransportSettings) -> None:
        self.clock = clock
        self.settings = settings
        self.closed = threading.Event()
        self.credentials = CredentialSource(config, clock)
        chosen = (
            proxies.parse(config.proxy_url)
            if config.proxy_url
            else proxies.choose(config.server, settings.proxy)
        )
        self.pool = Pool(config, self.credentials, clock, chosen)
        self._prefix = config.url.path.rstrip("/").encode("ascii")
        self._head = (
            f" HTTP/1.1\r\nHost: {self.pool.host}\r\nUser-Agent: {settings.user_agent}\r\n"
            "Accept: application/json\r\n"
        ).encode("ascii")
        self._warned: set[str] = set()

    def close(self) -> None:
        """End all connections; everything under way raises ClosedError."""
        self.closed.set()
        self.pool.close()

    def exchange(self, request: Request, deadline: Deadline | None = None) -> bytes:
        """Send until answered; returns the body of a 2xx answer. Raises ApiError, the last one met."""
        deadline = deadline or Deadline(self.settings.request_timeout_s, self.clock)
        is_idempotent = request.is_idempotent
        if is_idempotent is None:
            is_idempotent = request.method in IDEMPOTENT_METHODS
        attempt = 0
        may_renew = True
        while True:
            outcome = self._attempt(request, deadline, is_idempotent=is_idempotent)
            if not isinstance(outcome, ApiError):
                return outcome
            if outcome.status == 401 and may_renew and self.credentials.refresh():
                may_renew = False  # a rotated token: once is enough to know
                continue
            if not is_retryable(outcome, is_idempotent=is_idempotent):
                raise outcome
            self._pause(outcome, attempt, deadline)
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

    def _attempt(
        self, request: Request, deadline: Deadline, *, is_idempotent: bool
    ) -> bytes | ApiError:
        limit = Deadline(min(self.settings.attempt_timeout_s, deadline.remaining_s()), self.clock)
        try:
            return self._once(request, limit)
        except ApiError as error:
            if not (isinstance(error, TransportError) and error.stale and is_idempotent):
                return error
        try:
            # The server closed a kept connection while we wrote: normal, and no news to anybody.
            return self._once(request, limit, fresh=True)
        except ApiError as error:
            return error

    def _once(self, request: Request, limit: Deadline, *, fresh: bool = False) -> bytes:
        connection = self.pool.take(limit, fresh=fresh)
        try:
            connection.send(self.encode(request, self.credentials.current()), limit)
            head = connection.read_head(limit)
            body = connection.read_body(head, limit)
        except BaseException as error:
            self.pool.drop(connection)
            if isinstance(error, TransportError):
                raise self._named(request, error) from error
            raise
        if head.is_keepable:
            self.pool.give(connection)
        else:
            self.pool.drop(connection)
        self._check(request, head, body)
        return body

    def _named(self, request: Request, error: TransportError) -> TransportError:
        if self.closed.is_set():
            return ClosedError("the API client is closed")
        what = f"{request.method} {request.target}: {error}"
        return TransportError(what, unsent=error.unsent, stale=error.stale)

    def _check(self, request: Request, head: Head, body: bytes) -> None:
        if warning := head.text(b"warning"):
            self._warn(warning)
        if not 200 <= head.status < 300:
            raise self.refusal(request, head, body)

    def refusal(self, request: Request, head: Head, body: bytes) -> ApiError:
        """The error for an answer outside 2xx."""
        what = f"{request.method} {request.target.partition('?')[0]}"
        return status_error(what, head.status, body, parse_retry_after(head.text(b"retry-after")))

    def encode(self, request: Request, credentials: Credentials) -> bytes:
        """The request's bytes."""
        parts = [
            request.method.encode("ascii"), b" ", self._prefix, request.target.encode("ascii"),
            self._head, credentials.authorization,
        ]  # fmt: skip
        if request.body or request.method in {"POST", "PUT", "PATCH"}:
            parts.append(
                f"Content-Type: {request.content_type}\r\nContent-Length: {len(request.body)}\r\n".encode(
                    "ascii"
                )
            )
        parts += [b"\r\n", request.body]
        return b"".join(parts)

    def open_stream(self, request: Request, connection: Connection, limit: Deadline) -> Head:
        """Send on an own connection and read the head; raises ApiError for an answer outside 2xx."""
        connection.send(self.encode(request, self.credentials.current()), limit)
        head = connection.read_head(limit)
        if not 200 <= head.status < 300:
            raise self.refusal(request, head, connection.read_body(head, limit))
        if warning := head.text(b"warning"):
            self._warn(warning)
        return head

    def _warn(self, text: str) -> None:
        if text not in self._warned and len(self._warned) < WARNINGS_REMEMBERED:
            self._warned.add(text)
            log.warning("the API server warns: %s", text[:1024])
