"""A small client of the API server, which listens in a network namespace of its own; for waiting and for tests.

A socket belongs to the namespace in which it was made, whichever thread uses it afterwards. So a thread that ends right
away enters the namespace and connects, and the caller gets the connected socket.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.beds.cluster.errors import ClusterError
from tests.beds.cluster.layout import BRIDGE_ADDRESS, Layout
from tests.beds.cluster.machine.network import NETNS_DIR

_CLONE_NEWNET = 0x40000000


class ApiError(ClusterError):
    """The API server refused a request."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"API server answered {status}: {body.get('message', body)}")
        self.status = status
        self.body = body


def connect(netns: str, address: tuple[str, int], timeout_s: float = 10) -> socket.socket:
    """Return a TCP connection that was made inside a network namespace; `OSError` when it cannot be made."""
    results: list[socket.socket] = []
    errors: list[OSError] = []

    def enter_and_connect() -> None:
        try:
            _enter(NETNS_DIR / netns)
            results.append(socket.create_connection(address, timeout=timeout_s))
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=enter_and_connect, name="enter-netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def inside(netns: str) -> Iterator[None]:
    """Put the calling thread, and threads that it starts meanwhile, into a network namespace."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(NETNS_DIR / netns)
        try:
            yield
        finally:
            _set_namespace(before)
    finally:
        os.close(before)


def _enter(namespace: Path) -> None:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set_namespace(descriptor)
    finally:
        os.close(descriptor)


def _set_namespace(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"cannot enter the network namespace: {os.strerror(code)}")


class _Connection(http.client.HTTPSConnection):
    def __init__(self, netns: str, context: ssl.SSLContext, timeout_s: float) -> None:
        super().__init__(BRIDGE_ADDRESS, 6443, context=context, timeout=timeout_s)
        self._netns = netns
        self._tls = context

    def connect(self) -> None:
        plain = connect(self._netns, (self.host, self.port), self.timeout or 10)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


class ApiClient:
    """Asks the API server of one cluster with one of its key pairs, or with a token; each request
    has a connection of its own.
    """

    def __init__(
        self, layout: Layout, identity: str = "admin", timeout_s: float = 10, *, token: str = ""
    ) -> None:
        self._netns = layout.netns
        self._timeout_s = timeout_s
        self._tls = ssl.create_default_context(cafile=str(layout.pki / "ca.crt"))
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        if not token:
            pair = (layout.pki / f"{identity}.crt", layout.pki / f"{identity}.key")
            self._tls.load_cert_chain(*pair)

    def send(
        self,
        method: str,
        path: str,
        body: str = "",
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """Send one request and return status and text; `OSError` when the server cannot be reached."""
        connection = _Connection(self._netns, self._tls, self._timeout_s)
        try:
            sent = {"Content-Type": content_type, **self._headers, **(headers or {})}
            connection.request(method, path, body or None, sent)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except http.client.HTTPException as error:
            raise OSError(f"API server broke the connection: {error!r}") from error
        finally:
            connection.close()

    def get(self, path: str) -> dict[str, Any]:
        """Return the object or list at a path; `ApiError` for any status but 200."""
        return self.request("GET", path)

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """Send an object as JSON and return the answer; `ApiError` for a status of 400 and more."""
        text = "" if body is None else json.dumps(body)
        status, answer = self.send(method, path, text, content_type)
        try:
            document: dict[str, Any] = json.loads(answer)
        except ValueError:
            document = {"message": answer}
        if status >= 400:
            raise ApiError(status, document)
        return document

    def says_ok(self, path: str) -> bool:
        """Say whether a GET of the path answers 200; not reachable counts as no."""
        try:
            return self.send("GET", path)[0] == 200
        except OSError:
            return False
