"""Requests through a proxy that tunnels with CONNECT."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from nvdra_core.errors import ApiError
from nvdra_core.kube.resources import NAMESPACES
from nvdra_node.kube.client import Client
from tests.fakes.apiserver.server import FakeApiServer
from tests.service.kube.conftest import ONCE


class TunnelProxy:
    """A very small CONNECT proxy; ``heads`` is what it was asked."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.status = 200
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                thread = threading.Thread(target=self._serve, args=(sock,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            data = b""
            while b"\r\n\r\n" not in data:
                data += client.recv(4096)
            head = data.decode()
            self.heads.append(head)
            if self.status != 200:
                client.sendall(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % self.status)
                return
            host, _, port = head.split()[1].rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                self._relay(client, server)

    @staticmethod
    def _relay(client: socket.socket, server: socket.socket) -> None:
        pairs = {client: server, server: client}
        with contextlib.suppress(OSError):
            while True:
                for sock in select.select(list(pairs), [], [])[0]:
                    data = sock.recv(65536)
                    if not data:
                        return
                    pairs[sock].sendall(data)


@pytest.fixture
def proxy() -> Iterator[TunnelProxy]:
    running = TunnelProxy()
    yield running
    running.close()


def test_proxy_of_the_kubeconfig_tunnels(
    tls_server: FakeApiServer, connect: Callable[..., Client], proxy: TunnelProxy
) -> None:
    url = f"http://user:p%40ss@127.0.0.1:{proxy.port}"
    client = connect(tls_server.config(proxy_url=url))
    client.get(NAMESPACES, "default")
    assert proxy.heads[0].startswith(f"CONNECT {tls_server.url.removeprefix('https://')} HTTP/1.1")
    assert base64.b64encode(b"user:p@ss").decode() in proxy.heads[0]
    assert "Bearer" not in proxy.heads[0]
    client.close()


def test_refusal_of_the_proxy_is_named(
    tls_server: FakeApiServer, connect: Callable[..., Client], proxy: TunnelProxy
) -> None:
    proxy.status = 407
    client = connect(tls_server.config(proxy_url=f"http://secret:x@127.0.0.1:{proxy.port}"), ONCE)
    with pytest.raises(ApiError, match="answered 407") as caught:
        client.get(NAMESPACES, "default")
    assert "secret" not in str(caught.value)
