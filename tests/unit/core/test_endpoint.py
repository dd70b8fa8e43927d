"""The HTTP endpoint: real sockets on the loopback."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from nvdra_core.errors import ConfigError, HostError
from nvdra_core.runtime import endpoint
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_core.runtime.metrics import Registry
from nvdra_core.runtime.workers import Workers

LOOPBACK = endpoint.Address("127.0.0.1", 0)


class World:
    """A running endpoint, and what its parts say."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.problems: list[str] = []
        self.entered, self.leave = threading.Event(), threading.Event()
        routes = {
            "/metrics": endpoint.metrics_route(self.registry),
            "/healthz": endpoint.health_route(lambda: self.problems),
            "/broken": self._break,
            "/slow": self._wait,
            "/odd": lambda: endpoint.Response(299, b""),
        }
        self.endpoint = endpoint.Endpoint(LOOPBACK, routes, SystemClock())

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
def world() -> Iterator[World]:
    world = World()
    world.endpoint.start()
    yield world
    world.leave.set()
    world.endpoint.stop(Deadline(60, SystemClock()))


def test_metrics_are_served_as_prometheus_text(world):
    world.registry.counter("x_total", "Things").inc()
    status, body, content_type = world.ask("/metrics?name=x")
    assert (status, body.splitlines()[-1], content_type) == (
        200,
        "x_total 1",
        "text/plain; version=0.0.4; charset=utf-8",
    )


def test_health_is_ok_or_says_what_is_wrong(world):
    assert world.ask("/healthz")[:2] == (200, "ok\n")
    world.problems = ["worker a is dead", "odd \ud800"]
    assert world.ask("/healthz")[:2] == (503, "worker a is dead\nodd \\ud800\n")


def test_head_has_the_length_and_no_body(world):
    raw = world.send(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Content-Length: 3\r\n" in raw and raw.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/", "GET", 404), ("/metrics/", "GET", 404), ("/healthz", "POST", 405)],
)
def test_other_paths_and_methods_are_refused(world, path, method, status):
    assert world.ask(path, method)[0] == status


def test_request_that_cannot_be_answered_stops_no_process(world):
    workers = Workers(SystemClock())
    with workers.supervise_all():
        assert world.send(b"GET /odd HTTP/1.1\r\n\r\n") == b""
        assert world.ask("/healthz")[0] == 200
    assert workers.failure is None


def test_a_failing_route_answers_500_without_details(world):
    status, body, _ = world.ask("/broken")
    assert status == 500 and "secret" not in body


@pytest.mark.parametrize(
    "raw",
    [b"", b"\r\n\r\n", b"GET /healthz\r\n\r\n", b"\xff\xfe\x00" * 9000, b"GET  HTTP/1.1\r\n\r\n"],
)
def test_what_is_no_request_is_answered_400_and_harms_nobody(world, raw):
    with contextlib.suppress(OSError):  # a flood may be cut by a reset
        assert world.send(raw).startswith(b"HTTP/1.1 400")
    assert world.ask("/healthz")[0] == 200


class Sleepy(SystemClock):
    """A clock on which every look takes four seconds."""

    def __init__(self) -> None:
        self._looks = 0

    def monotonic(self) -> float:
        self._looks += 1
        return self._looks * 4.0


def test_a_request_that_comes_in_drops_is_given_up():
    dripping = endpoint.Endpoint(LOOPBACK, {}, Sleepy())
    dripping.start()
    with socket.create_connection(("127.0.0.1", dripping.address.port), timeout=60) as peer:
        peer.sendall(b"GET")
        assert peer.recv(1) == b""
    dripping.stop(Deadline(60, SystemClock()))


def test_a_slow_reader_does_not_hold_up_others(world):
    slow = threading.Thread(target=world.ask, args=("/slow",))
    slow.start()
    assert world.entered.wait(60)
    assert world.ask("/healthz")[0] == 200
    world.leave.set()
    slow.join()


def test_too_many_connections_are_hung_up_on_and_the_rest_still_served(world):
    with_nothing_to_say = [
        socket.create_connection(("127.0.0.1", world.endpoint.address.port), timeout=60)
        for _ in range(9)
    ]
    assert with_nothing_to_say[-1].recv(1) == b""
    for peer in with_nothing_to_say:
        peer.close()


def test_after_stop_nobody_answers_and_the_port_is_free(world):
    deadline = Deadline(60, SystemClock())
    world.endpoint.stop(deadline)
    with pytest.raises(ConnectionRefusedError):
        world.ask("/healthz")
    again = endpoint.Endpoint(world.endpoint.address, {}, SystemClock())
    again.start()
    again.stop(deadline)


def test_an_address_in_use_is_a_host_error_that_says_which(world):
    second = endpoint.Endpoint(world.endpoint.address, {}, SystemClock())
    with pytest.raises(
        HostError,
        match=rf"HTTP endpoint 127\.0\.0\.1:{world.endpoint.address.port}: cannot listen: .* in use",
    ):
        second.start()


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine_is_a_config_error(host):
    with pytest.raises(ConfigError, match="choose an address and port of this machine"):
        endpoint.Endpoint(endpoint.Address(host, 0), {}, SystemClock()).start()


def test_stopping_what_was_never_started_is_fine():
    endpoint.Endpoint(LOOPBACK, {}, SystemClock()).stop(Deadline(1, SystemClock()))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("[::1]:1", "::1", 1),
        (":8080", "", 8080),
        ("localhost:0", "localhost", 0),
    ],
)
def test_addresses_are_host_and_port(text, host, port):
    address = endpoint.Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert endpoint.Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "8080", "host", "a:b", "::1:80", "a:65536", "a:-1", "a:\u0661", ":"]
)
def test_other_addresses_are_config_errors(text):
    with pytest.raises(ConfigError, match=r"expected HOST:PORT such as 127\.0\.0\.1:8080"):
        endpoint.Address.parse(text)


def test_everywhere_means_ipv4_too():
    everywhere = endpoint.Endpoint(endpoint.Address("", 0), {}, SystemClock())
    everywhere.start()
    with socket.create_connection(("127.0.0.1", everywhere.address.port), timeout=60):
        pass
    everywhere.stop(Deadline(60, SystemClock()))
