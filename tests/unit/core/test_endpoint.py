"""The HTTP endpoint: real sockets on the loopback."""

import contextlib
import http.client
import select
import socket
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from nvdra_core.errors import ConfigError, HostError
from nvdra_core.runtime import endpoint
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_core.runtime.workers import Workers

LOOPBACK = endpoint.Address("127.0.0.1", 0)


class Running:
    """A running endpoint and what its routes return."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.problems: list[str] = []
        self.entered, self.leave = threading.Event(), threading.Event()
        routes = {
            "/metrics": endpoint.metrics_route(self.registry),
            "/healthz": endpoint.health_route(lambda: self.problems),
            "/broken": self._break,
            "/slow": self._wait,
            "/odd": lambda: endpoint.Response(200, "no bytes"),  # type: ignore[arg-type]  # a bug
        }
        self.endpoint = endpoint.Endpoint(LOOPBACK, routes)

    def _break(self) -> endpoint.Response:
        raise RuntimeError("secret detail")

    def _wait(self) -> endpoint.Response:
        self.entered.set()
        self.leave.wait(60)
        return endpoint.Response(200, b"done\n")

    def ask(self, path: str, method: str = "GET") -> tuple[int, str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.endpoint.address.port, timeout=60)
        connection.request(method, path)
        response = connection.getresponse()
        answer = response.status, response.read().decode(), response.headers["Content-Type"]
        connection.close()
        return answer

    def send(self, raw: bytes) -> bytes:
        with socket.create_connection(
            ("127.0.0.1", self.endpoint.address.port), timeout=60
        ) as peer:
            peer.sendall(raw)
            peer.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: peer.recv(65536), b""))


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    running.endpoint.start()
    yield running
    running.leave.set()
    running.endpoint.stop(Deadline(60, SystemClock()))


def test_metrics_are_served_as_prometheus_text(running):
    Counter("x_total", "Things", registry=running.registry).inc()
    status, body, content_type = running.ask("/metrics?name=x")
    assert (status, body.splitlines()[2], content_type) == (
        200,
        "x_total 1.0",
        "text/plain; version=0.0.4; charset=utf-8",
    )


def test_health_is_ok_or_lists_problems(running):
    assert running.ask("/healthz")[:2] == (200, "ok\n")
    running.problems = ["worker a is dead", "odd \ud800"]
    assert running.ask("/healthz")[:2] == (503, "worker a is dead\nodd \\ud800\n")


def test_head_has_length_and_no_body(running):
    raw = running.send(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Content-Length: 3\r\n" in raw and raw.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/", "GET", 404), ("/metrics/", "GET", 404), ("/healthz", "POST", 501)],
)
def test_other_paths_and_methods_are_refused(running, path, method, status):
    assert running.ask(path, method)[0] == status


def test_bug_in_a_response_does_not_stop_the_service(running):
    workers = Workers(SystemClock())
    with workers.supervise_all():
        assert b"\r\n\r\n" in running.send(b"GET /odd HTTP/1.1\r\n\r\n")
        assert running.ask("/healthz")[0] == 200
    assert workers.failure is None


def test_failing_route_returns_500_without_details(running):
    status, body, _ = running.ask("/broken")
    assert status == 500 and "secret" not in body


@pytest.mark.parametrize(
    "raw",
    [b"", b"\r\n\r\n", b"GET\r\n\r\n", b"\xff\xfe\x00" * 30000, b"GET  HTTP/1.1\r\n\r\n"],
)
def test_malformed_request_is_closed_and_others_served(running, raw):
    with contextlib.suppress(OSError):  # a flood may be cut by a reset
        assert b"ok" not in running.send(raw)
    assert running.ask("/healthz")[0] == 200


def test_request_sent_byte_by_byte_times_out():
    dripping = endpoint.Endpoint(LOOPBACK, {}, timeout_s=0.3)
    dripping.start()
    with socket.create_connection(("127.0.0.1", dripping.address.port), timeout=60) as peer:
        for _ in range(600):
            with contextlib.suppress(OSError):
                peer.sendall(b"x")
            if select.select([peer], [], [], 0.1)[0]:
                break
        else:
            pytest.fail("still connected after a minute")
    dripping.stop(Deadline(60, SystemClock()))


def test_slow_route_does_not_block_others(running):
    slow = threading.Thread(target=running.ask, args=("/slow",))
    slow.start()
    assert running.entered.wait(60)
    assert running.ask("/healthz")[0] == 200
    running.leave.set()
    slow.join()


def test_connections_over_the_limit_are_closed(running):
    with_nothing_to_say = [
        socket.create_connection(("127.0.0.1", running.endpoint.address.port), timeout=60)
        for _ in range(9)
    ]
    assert with_nothing_to_say[-1].recv(1) == b""
    for peer in with_nothing_to_say:
        peer.close()


def test_stop_closes_and_frees_the_port(running):
    deadline = Deadline(60, SystemClock())
    running.endpoint.stop(deadline)
    with pytest.raises(ConnectionRefusedError):
        running.ask("/healthz")
    again = endpoint.Endpoint(running.endpoint.address, {})
    again.start()
    again.stop(deadline)


def test_address_in_use_is_a_host_error_naming_it(running):
    second = endpoint.Endpoint(running.endpoint.address, {})
    with pytest.raises(
        HostError,
        match=rf"HTTP endpoint 127\.0\.0\.1:{running.endpoint.address.port}: cannot listen: .* in use",
    ):
        second.start()


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_address_of_another_machine_is_a_config_error(host):
    with pytest.raises(ConfigError, match="choose an address and port of this machine"):
        endpoint.Endpoint(endpoint.Address(host, 0), {}).start()


def test_stop_without_start_does_nothing():
    endpoint.Endpoint(LOOPBACK, {}).stop(Deadline(1, SystemClock()))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("[::1]:1", "::1", 1),
        (":8080", "", 8080),
        ("localhost:0", "localhost", 0),
    ],
)
def test_address_is_parsed_as_host_and_port(text, host, port):
    address = endpoint.Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert endpoint.Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "8080", "host", "a:b", "::1:80", "a:65536", "a:-1", "a:\u0661", ":"]
)
def test_malformed_address_is_a_config_error(text):
    with pytest.raises(ConfigError, match=r"expected HOST:PORT such as 127\.0\.0\.1:8080"):
        endpoint.Address.parse(text)


def test_empty_host_listens_on_ipv4_too():
    everywhere = endpoint.Endpoint(endpoint.Address("", 0), {})
    everywhere.start()
    with socket.create_connection(("127.0.0.1", everywhere.address.port), timeout=60):
        pass
    everywhere.stop(Deadline(60, SystemClock()))
