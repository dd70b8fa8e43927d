"""Lists and watches one kind through ``client.Client``, for a ``reflector.Reflector``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

import msgspec

from nvdra_core.errors import ApiError
from nvdra_core.kube.client import Client, query
from nvdra_core.kube.errors import ClosedError, TransportError
from nvdra_core.kube.reflector import WatchEvent, WatchStream
from nvdra_core.kube.resources import EVERYTHING, JsonObject, Resource, Selector
from nvdra_core.kube.transport import Request
from nvdra_core.kube.wire import BODY_LIMIT, Connection
from nvdra_core.runtime.clock import Deadline

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


class LineSplitter:
    """Bytes in pieces in, whole lines out."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that ``piece`` completes, without their ends; raises TransportError beyond BODY_LIMIT."""
        searched_from = len(self._rest)
        self._rest += piece
        if self._rest.find(b"\n", searched_from) < 0:
            if len(self._rest) > BODY_LIMIT:
                raise TransportError(f"an event of the watch is larger than {BODY_LIMIT} bytes")
            return []
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest
        return [bytes(line) for line in lines if line.strip()]


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
                raise self._named(error) from error
            self.close()
            self._open_once()

    def __iter__(self) -> Iterator[WatchEvent]:
        """See WatchStream."""
        limit = Deadline(self._timeout_s, self._transport.clock)
        splitter = LineSplitter()
        connection, head = self._opened
        try:
            for piece in connection.stream_body(head, limit):
                for line in splitter.feed(piece):
                    yield self._decode(line)
        except TransportError as error:
            if not self._is_cancelled:
                raise self._named(error) from error

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
            self._transport.pool.forget(connection)

    def _open_once(self) -> None:
        transport = self._transport
        limit = Deadline(HEAD_TIMEOUT_S, transport.clock)
        connection = transport.pool.dial(transport.credentials.current(), limit, self._announce)
        self._opened = (connection, transport.open_stream(self._request, connection, limit))

    def _announce(self, connection: Connection) -> None:
        with self._lock:
            if self._is_cancelled:
                raise TransportError("the watch was cancelled", unsent=True)
            self._connection = connection

    def _decode(self, line: bytes) -> WatchEvent:
        try:
            event = msgspec.json.decode(line, type=WatchEvent)
        except msgspec.DecodeError as error:
            raise TransportError(f"malformed event: {error}") from error
        if event.type == "ERROR":
            return event
        return WatchEvent(event.type, self._convert(event.object))

    def _named(self, error: ApiError) -> ApiError:
        if self._transport.closed.is_set():
            return ClosedError("the API client is closed")
        return error
