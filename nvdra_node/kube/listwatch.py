"""Lists and watches one kind through ``client.Client``, for a ``reflector.Reflector``."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator, Mapping

import msgspec

from nvdra_core.errors import ApiError
from nvdra_core.kube.client import query
from nvdra_core.kube.errors import TransportError
from nvdra_core.kube.reflector import WatchEvent, WatchStream
from nvdra_core.kube.resources import EVERYTHING, JsonObject, Resource, Selector
from nvdra_core.kube.transport import BODY_LIMIT_BYTES, Request
from nvdra_core.runtime.clock import Deadline
from nvdra_node.kube.client import Client
from nvdra_node.kube.connection import Connection, read_body

HEAD_TIMEOUT_S = 30.0


def _unchanged(obj: JsonObject) -> JsonObject:
    return obj


class ClientListWatch:
    """A ``reflector.ListerWatcher``. ``convert`` is applied to every object of lists and events."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        *,
        namespace: str = "",
        selector: Selector = EVERYTHING,
        convert: Callable[[JsonObject], JsonObject] = _unchanged,
    ) -> None:
        self.name = resource.plural
        self._client = client
        self._path = resource.path(namespace=namespace)
        self._selector = selector
        self._convert = convert

    def list_page(self, parameters: Mapping[str, str]) -> JsonObject:
        """See ListerWatcher."""
        page = self._client.get_path(
            query(self._path, {**self._selector.parameters(), **parameters})
        )
        return {**page, "items": [self._convert(item) for item in page.get("items") or ()]}

    def watch(self, parameters: Mapping[str, str], timeout_s: float) -> WatchStream:
        """See ListerWatcher."""
        target = query(self._path, {**self._selector.parameters(), **parameters, "watch": "1"})
        return _Stream(self._client, Request("GET", target), timeout_s, self._convert)


class _Stream:
    """A ``reflector.WatchStream`` on a connection of its own."""

    def __init__(
        self,
        client: Client,
        request: Request,
        timeout_s: float,
        convert: Callable[[JsonObject], JsonObject],
    ) -> None:
        self._transport = client.transport
        self._request = request
        self._timeout_s = timeout_s
        self._convert = convert
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._connection: Connection | None = None

    def open(self) -> None:
        """See WatchStream."""
        try:
            self._open_once()
        except ApiError as error:
            if error.status != 401 or not self._transport.credentials.refresh():
                raise
            self.close()
            self._open_once()

    def __iter__(self) -> Iterator[WatchEvent]:
        """See WatchStream."""
        connection, response = self._opened
        connection.bound(Deadline(self._timeout_s, self._transport.clock))
        try:
            while line := response.readline(BODY_LIMIT_BYTES):
                if line.strip():
                    yield self._decode(line)
        except (OSError, http.client.HTTPException) as error:
            if not self._is_cancelled:
                raise self._transport.broken(self._request, error) from error

    def cancel(self) -> None:
        """See WatchStream."""
        with self._lock:
            self._is_cancelled = True
            if self._connection is not None:
                self._connection.abort()

    def close(self) -> None:
        """See WatchStream."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            self._transport.pool.give(connection, is_reusable=False)

    def _open_once(self) -> None:
        transport, request = self._transport, self._request
        limit = Deadline(HEAD_TIMEOUT_S, transport.clock)
        connection = transport.pool.dial(limit, self._register)
        try:
            response = transport.send(request, connection, limit)
            is_open = 200 <= response.status < 300
            body = b"" if is_open else read_body(response)
            transport.check(request, response.status, response.headers, body)
        except (OSError, http.client.HTTPException) as error:
            raise transport.broken(request, error) from error
        self._opened = (connection, response)

    def _register(self, connection: Connection) -> None:
        with self._lock:
            self._connection = connection
            if self._is_cancelled:
                connection.abort()

    def _decode(self, line: bytes) -> WatchEvent:
        try:
            event = msgspec.json.decode(line, type=WatchEvent)
        except msgspec.DecodeError as error:
            raise TransportError(f"malformed event: {error}") from error
        if event.type == "ERROR":
            return event
        return WatchEvent(event.type, self._convert(event.object))
