"""Requests and watches of the client on the ``kubernetes`` package: retries, deadlines, cut answers, close, cancel."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from kubernetes.client import Configuration

from nvdra_cluster.kube import config
from nvdra_cluster.kube.client import KubernetesClient
from nvdra_core.errors import ApiError
from nvdra_core.kube.errors import ClosedError, TransportError
from nvdra_core.kube.resources import EVERYTHING, NODES
from nvdra_core.kube.retry import Backoff
from nvdra_core.kube.transport import TransportSettings
from nvdra_core.runtime.clock import Deadline, SystemClock
from tests.beds.services.replica import FAST, access_of
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings
from tests.lib.waits import until

CLOCK = SystemClock()
ONCE = TransportSettings(backoff=Backoff(first_s=1e3, limit_s=1e3))
"""No pause fits into the time of a request."""


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        running.add({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}})
        yield running


def test_failed_attempts_are_repeated_within_deadline(server: FakeApiServer):
    server.api.faults.add(Fault(verb="get", code=503, count=2))
    client = KubernetesClient(access_of(server), CLOCK, FAST)
    assert client.get(NODES, "a")["metadata"]["name"] == "a"
    client.close()


def test_silent_server_ends_with_deadline(server: FakeApiServer):
    server.api.faults.add(Fault(verb="get", action="hang", count=0))
    client = KubernetesClient(access_of(server), CLOCK, FAST)
    began_s = CLOCK.monotonic()
    with pytest.raises(ApiError) as raised:
        client.get(NODES, "a", deadline=Deadline(0.5, CLOCK))
    assert (raised.value.status, CLOCK.monotonic() - began_s < 5.0) == (0, True)
    server.api.faults.clear()
    client.close()


@contextmanager
def answering(*parts: bytes, pause_s: float = 0.0) -> Iterator[KubernetesClient]:
    """The client of a server that answers one request with these parts, after a pause each, and closes."""
    release = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listening, listening.accept()[0] as sock:
            sock.recv(65536)
            for part in parts:
                release.wait(pause_s)
                sock.sendall(part)

    thread = threading.Thread(target=serve)
    thread.start()
    host = f"http://127.0.0.1:{listening.getsockname()[1]}"
    client = KubernetesClient(config.AccessConfig(lambda: Configuration(host=host)), CLOCK)
    yield client
    release.set()
    thread.join()
    client.close()


def test_cut_refusal_of_a_watch_is_an_api_error():
    with answering(b"HTTP/1.1 503 Busy\r\nContent-Length: 100\r\n\r\n{") as client:
        stream = client.list_watch(NODES, "", EVERYTHING).watch({}, 60.0)
        with pytest.raises(TransportError):
            stream.open()


def test_deadline_covers_a_late_body():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    began_s = CLOCK.monotonic()
    with answering(head, b"{}", pause_s=0.9) as client, pytest.raises(TransportError):
        client.get(NODES, "a", deadline=Deadline(1.0, CLOCK))
    assert CLOCK.monotonic() - began_s < 1.5


def test_write_is_not_sent_after_slow_name_resolution(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
):
    resolve = socket.getaddrinfo  # replaced: nothing else makes the C library's resolver slow

    def resolve_slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.7)
        return resolve(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_slowly)
    client = KubernetesClient(access_of(server), CLOCK, ONCE)
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "b"}}
    with pytest.raises(TransportError):
        client.create(NODES, body, deadline=Deadline(0.5, CLOCK))
    client.get(NODES, "a")
    client.close()
    assert server.api.log.count("create", "nodes") == 0


def test_closed_client_refuses_requests(server: FakeApiServer):
    client = KubernetesClient(access_of(server), CLOCK, FAST)
    client.close()
    with pytest.raises(ClosedError):
        client.get(NODES, "a")


def test_close_ends_waiting_request(tmp_path: Path):
    with FakeApiServer(FakeSettings(tls_directory=tmp_path / "tls")) as server:
        server.api.faults.add(Fault(verb="get", action="hang", count=0))
        client = KubernetesClient(access_of(server), CLOCK)
        errors: list[ApiError] = []

        def read() -> None:
            try:
                client.get(NODES, "a")
            except ApiError as error:
                errors.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        until(lambda: server.api.log.count("get", "nodes"))
        began_s = CLOCK.monotonic()
        client.close()
        thread.join()
        server.api.faults.clear()
    assert isinstance(errors[0], ClosedError)
    assert CLOCK.monotonic() - began_s < 2.0


def test_cancel_ends_quiet_watch(server: FakeApiServer):
    client = KubernetesClient(access_of(server), CLOCK, FAST)
    stream = client.list_watch(NODES, "", EVERYTHING).watch({"resourceVersion": "0"}, 60.0)
    stream.open()
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.extend(event.type for event in stream))
    thread.start()
    stream.cancel()
    thread.join(10.0)
    assert not thread.is_alive()
    stream.close()
    client.close()


def test_dead_peer_of_a_watch_is_detected_by_keepalive(server: FakeApiServer):
    client = KubernetesClient(access_of(server), CLOCK, FAST)
    stream = client.list_watch(NODES, "", EVERYTHING).watch({"resourceVersion": "0"}, 60.0)
    stream.open()
    port = urlsplit(server.config().server).port
    assert has_keepalive_timer(port)
    stream.close()
    client.close()


def has_keepalive_timer(port: int | None) -> bool:
    """Whether a connection to this port of 127.0.0.1 has a keepalive timer (/proc/net/tcp: 02)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2] == f"0100007F:{port:04X}" and row[5].startswith("02:") for row in rows)
