"""One connection: bodies in every form, cut and malformed answers, deadlines, abort."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.kube.connection import AddressInfo, Connection, Route, read_body
from nvdra_node.kube.credentials import Credentials
from nvdra_node.kube.proxy import Proxy

PLAIN = Credentials("", None, 1)


def soon(timeout_s: float = 5.0) -> Deadline:
    return Deadline(timeout_s, SystemClock())


@contextmanager
def connected(
    answer: bytes, *, step: int = 0, closes: bool = True, pause_s: float = 0.0
) -> Iterator[Connection]:
    """A connection whose peer sends ``answer``, in steps."""
    listening = socket.create_server(("127.0.0.1", 0))
    release = threading.Event()

    def serve() -> None:
        with listening, listening.accept()[0] as sock:
            sock.recv(65536)
            for start in range(0, len(answer), step or len(answer) or 1):
                sock.sendall(answer[start : start + (step or len(answer))])
                if release.wait(pause_s):
                    return
            if not closes:
                release.wait(10)

    thread = threading.Thread(target=serve)
    thread.start()
    connection = Connection(Route("127.0.0.1", listening.getsockname()[1], ""), PLAIN)
    connection.open(soon())
    try:
        yield connection
    finally:
        release.set()
        connection.release()
        thread.join()


def read(answer: bytes, *, step: int = 0) -> tuple[int, bytes, bool]:
    with connected(answer, step=step) as connection:
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status, read_body(response), not response.will_close


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BODIES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "chunks": CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: x\r\n\r\n",
    "close": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
    "old": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("form", list(BODIES))
def test_body_is_read_in_every_form(form: str, step: int) -> None:
    status, body, is_reusable = read(BODIES[form], step=step)
    assert (status, body) == (200, b"hello")
    assert is_reusable is (form in {"length", "chunks"})


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 50), st.integers(1, 60))
def test_chunks_carry_any_body(body: bytes, size: int, step: int) -> None:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    assert read(CHUNKED + chunks + b"0\r\n\r\n", step=step)[1] == body


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2xx OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        CHUNKED + b"x\r\n",
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: " + b"b" * 70_000,
    ],
)
def test_malformed_or_cut_answer_is_an_error(answer: bytes) -> None:
    with pytest.raises((http.client.HTTPException, OSError)):
        read(answer)


@pytest.mark.parametrize("answer", [BODIES["length"], CHUNKED, BODIES["close"]])
def test_trickling_answer_ends_at_the_deadline(answer: bytes) -> None:
    begun_s = time.monotonic()
    with connected(answer, step=1, closes=False, pause_s=0.05) as connection:
        connection.bound(soon(0.3))
        connection.request("GET", "/")
        with pytest.raises(TimeoutError):
            read_body(connection.getresponse())
    assert time.monotonic() - begun_s < 5.0


def test_unexpected_bytes_make_an_idle_connection_stale() -> None:
    for answer, is_stale in ((BODIES["length"], False), (BODIES["length"] + b"HTTP", True)):
        step = len(BODIES["length"])
        with connected(answer, step=step, closes=False, pause_s=0.1) as connection:
            connection.request("GET", "/")
            read_body(connection.getresponse())
            time.sleep(0.3)
            assert connection.is_stale() is is_stale


def test_abort_ends_a_waiting_read() -> None:
    with connected(b"", closes=False) as connection:
        timer = threading.Timer(0.1, connection.abort)
        timer.start()
        connection.request("GET", "/")
        with pytest.raises(ConnectionError):
            connection.getresponse()
        timer.join()


def test_aborted_connection_does_not_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = Connection(Route("127.0.0.1", listening.getsockname()[1], ""), PLAIN)
        connection.abort()
        with pytest.raises(ConnectionError, match="aborted"):
            connection.open(soon())
        connection.release()


@contextmanager
def deaf_server() -> Iterator[int]:
    """The port of a server that does not complete connections: its backlog is full."""
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
        yield int(listening.getsockname()[1])


def test_abort_ends_a_waiting_connect() -> None:
    with deaf_server() as port:
        connection = Connection(Route("127.0.0.1", port, ""), PLAIN)
        begun_s = time.monotonic()
        timer = threading.Timer(0.3, connection.abort)
        timer.start()
        with pytest.raises(OSError):
            connection.open(soon(30.0))
        connection.release()
        timer.join()
    assert time.monotonic() - begun_s < 10.0


def test_abort_ends_a_waiting_handshake() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        route = Route("127.0.0.1", silent.getsockname()[1], "localhost")
        connection = Connection(route, Credentials("", context, 1))
        begun_s = time.monotonic()
        timer = threading.Timer(0.3, connection.abort)
        timer.start()
        with pytest.raises(OSError):
            connection.open(soon(30.0))
        connection.release()
        timer.join()
    assert time.monotonic() - begun_s < 10.0


def test_unreachable_address_leaves_time_for_the_next() -> None:
    with deaf_server() as deaf, socket.create_server(("127.0.0.1", 0)) as listening:
        live = int(listening.getsockname()[1])

        class TwoAddresses(Route, frozen=True):
            def addresses(self) -> Sequence[AddressInfo]:
                return [*Route("127.0.0.1", deaf, "").addresses(), *super().addresses()]

        connection = Connection(TwoAddresses("127.0.0.1", live, ""), PLAIN)
        limit = soon(4.0)
        connection.open(limit)
        assert limit.remaining_s() > 0.0
        connection.release()


def test_ipv6_target_of_a_proxy_is_in_brackets() -> None:
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with listening.accept()[0] as sock:
                heads.append(sock.recv(65536))
                sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        proxy = Proxy("127.0.0.1", listening.getsockname()[1])
        connection = Connection(Route("fd00::1", 6443, "", proxy), PLAIN)
        connection.open(soon())
        connection.release()
        thread.join()
    assert heads == [b"CONNECT [fd00::1]:6443 HTTP/1.1\r\nHost: [fd00::1]:6443\r\n\r\n"]
