"""The client of the cluster half, and its lists and watches for ``nvdra_core.kube.reflector``."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping

import msgspec
import urllib3

from nvdra_cluster.kube.config import AccessConfig
from nvdra_cluster.kube.connections import shut_down
from nvdra_cluster.kube.transport import READ_SIZE_BYTES, KubernetesTransport, socket_of
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import ResourceClient, query
from nvdra_core.kube.errors import TransportError
from nvdra_core.kube.reflector import WatchEvent, WatchStream
from nvdra_core.kube.resources import EVERYTHING, JsonObject, Resource, Selector
from nvdra_core.kube.transport import BODY_LIMIT_BYTES, Request, TransportSettings
from nvdra_core.runtime.clock import Clock

HEAD_TIMEOUT_S = 15.0
DEFAULT_SETTINGS = TransportSettings()


class KubernetesClient(ResourceClient):
    """``ResourceClient`` on the ``kubernetes`` package."""

    def __init__(
        self, access: AccessConfig, clock: Clock, settings: TransportSettings = DEFAULT_SETTINGS
    ) -> None:
        """Reads the credentials (ConfigError); connects at the first call."""
        self.transport = KubernetesTransport(access, clock, settings)
        super().__init__(self.transport)

    def list_watch(self, resource: Resource, namespace: str, selector: Selector) -> ListWatch:
        """A ``reflector.ListerWatcher`` of a selection."""
        return ListWatch(self, resource, namespace, selector)


class ListWatch:
    """See ``KubernetesClient.list_watch``."""

    def __init__(
        self,
        client: KubernetesClient,
        resource: Resource,
        namespace: str = "",
        selector: Selector = EVERYTHING,
    ) -> None:
        self.name = resource.plural
        self._client = client
        self._path = resource.path(namespace=namespace)
        self._selector = selector

    def list_page(self, parameters: Mapping[str, str]) -> JsonObject:
        """See ListerWatcher."""
        return self._client.get_path(
            query(self._path, {**self._selector.parameters(), **parameters})
        )

    def watch(self, parameters: Mapping[str, str], timeout_s: float) -> WatchStream:
        """See ListerWatcher."""
        target = query(self._path, {**self._selector.parameters(), **parameters, "watch": "1"})
        return _Stream(self._client.transport, Request("GET", target), timeout_s)


class _Stream:
    """A ``reflector.WatchStream`` on a connection of its own."""

    def __init__(self, transport: KubernetesTransport, request: Request, timeout_s: float) -> None:
        self._transport = transport
        self._request = request
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._response: urllib3.BaseHTTPResponse | None = None
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """See WatchStream."""
        try:
            self._open_once()
        except ApiError as error:
            if error.status != 401 or not self._transport.renew_credentials():
                raise
            self._open_once()

    def __iter__(self) -> Iterator[WatchEvent]:
        """See WatchStream."""
        response, partial = self._response, bytearray()
        if response is None:
            return
        try:
            while piece := response.read1(READ_SIZE_BYTES):
                *lines, last = piece.split(b"\n")
                for line in lines:
                    yield from self._decode(bytes(partial) + line)
                    partial.clear()
                partial += last
                if len(partial) > BODY_LIMIT_BYTES:
                    raise TransportError("an event of the watch is too large")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if not self._is_cancelled:
                raise self._transport.broken(self._request, error) from error

    def cancel(self) -> None:
        """See WatchStream."""
        with self._lock:
            self._is_cancelled = True
            if self._socket is not None:
                shut_down(self._socket)

    def close(self) -> None:
        """See WatchStream."""
        with self._lock:
            response, self._response, self._socket = self._response, None, None
        if response is not None:
            response.close()

    def _open_once(self) -> None:
        transport, request = self._transport, self._request
        response = transport.send(request, HEAD_TIMEOUT_S)
        try:
            is_open = 200 <= response.status < 300
            transport.check(
                request, response.status, response.headers, b"" if is_open else response.data
            )
        except ApiError:
            response.close()
            raise
        except (urllib3.exceptions.HTTPError, OSError) as error:
            response.close()
            raise transport.broken(request, error) from error
        sock = socket_of(response)
        if sock is not None:
            sock.settimeout(self._timeout_s)
        with self._lock:
            self._response, self._socket = response, sock
            if self._is_cancelled:
                raise TransportError("the watch was cancelled", unsent=True)

    def _decode(self, line: bytes) -> Iterator[WatchEvent]:
        if not line.strip():
            return
        try:
            yield msgspec.json.decode(line, type=WatchEvent)
        except msgspec.DecodeError as error:
            raise TransportError(f"malformed event: {error}") from error
