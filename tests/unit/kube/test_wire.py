"""HTTP as the client reads it: whole, in chunks, cut, and malformed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdra_core.kube.errors import TransportError
from nvdra_core.kube.listwatch import LineSplitter
from nvdra_core.kube.wire import Connection, chunk_size, parse_head
from nvdra_core.runtime.clock import Deadline, SystemClock


def soon(timeout_s: float = 5.0) -> Deadline:
    return Deadline(timeout_s, SystemClock())


@contextmanager
def connected(answer: bytes, *, step: int = 0, closes: bool = True) -> Iterator[Connection]:
    """A connection whose peer sends ``answer``, in steps."""
    listening = socket.create_server(("127.0.0.1", 0))
    release = threading.Event()

    def serve() -> None:
        with listening, listening.accept()[0] as sock:
            for start in range(0, len(answer), step or len(answer) or 1):
                sock.sendall(answer[start : start + (step or len(answer))])
            if not closes:
                release.wait(10)

    thread = threading.Thread(target=serve)
    thread.start()
    connection = Connection(generation=1)
    connection.connect(("127.0.0.1", listening.getsockname()[1]), soon())
    try:
        yield connection
    finally:
        release.set()
        thread.join()
        connection.close()


def read(answer: bytes, *, step: int = 0, closes: bool = True) -> tuple[int, bytes, bool]:
    with connected(answer, step=step, closes=closes) as connection:
        head = connection.read_head(soon())
        return head.status, connection.read_body(head, soon()), head.is_keepable


BODIES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: x\r\n\r\n",
    "close": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
    "old": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "informational": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("form", list(BODIES))
def test_body_is_read_in_every_form(form: str, step: int) -> None:
    status, body, is_keepable = read(BODIES[form], step=step)
    assert (status, body) == (200, b"hello")
    assert is_keepable is (form in {"length", "chunks", "informational"})


def test_answer_without_body_leaves_the_connection_usable() -> None:
    assert read(b"HTTP/1.1 204 No Content\r\n\r\n", closes=False) == (204, b"", True)
    assert read(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", closes=False) == (200, b"", True)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2xx OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloworld\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: " + b"b" * 70_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000,
    ],
)
def test_malformed_or_cut_answer_is_a_transport_error(answer: bytes) -> None:
    with pytest.raises(TransportError):
        read(answer)


def test_repeated_headers_are_joined() -> None:
    head = parse_head(b"HTTP/1.1 200 OK\r\nWarning: a\r\nWARNING:b\r\nContent-Length: 0")
    assert head.text(b"warning") == "a, b"
    assert head.text(b"missing") == ""


@pytest.mark.parametrize("line", [b"", b"x", b"0x5", b"+5", b" ", b"123456789", b"5 5"])
def test_malformed_chunk_size_is_refused(line: bytes) -> None:
    with pytest.raises(TransportError):
        chunk_size(line)


def test_two_answers_in_one_piece_are_kept_apart() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
    with connected(answer + b"a" + answer + b"b") as connection:
        bodies = [connection.read_body(connection.read_head(soon()), soon()) for _ in range(2)]
    assert bodies == [b"a", b"b"]


def test_unasked_bytes_make_an_idle_connection_stale() -> None:
    with connected(BODIES["length"], closes=False) as connection:
        connection.read_body(connection.read_head(soon()), soon())
        assert not connection.is_stale()
    with connected(BODIES["length"] + b"HTTP/1.1 408\r\n", closes=False) as connection:
        connection.read_body(connection.read_head(soon()), soon())
        assert connection.is_stale()


def test_abort_wakes_the_reader() -> None:
    with connected(b"", closes=False) as connection:
        timer = threading.Timer(0.1, connection.abort)
        timer.start()
        with pytest.raises(TransportError):
            connection.read_head(soon())
        timer.join()


def test_aborted_connection_does_not_connect() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    connection = Connection(generation=1)
    connection.abort()
    with pytest.raises(TransportError, match="ended from this side"):
        connection.connect(("127.0.0.1", listening.getsockname()[1]), soon())
    connection.close()
    listening.close()


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 50), st.integers(1, 60))
def test_chunks_carry_any_body(body: bytes, size: int, step: int) -> None:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert read(head + chunks + b"0\r\n\r\n", step=step)[1] == body


@given(
    st.lists(st.binary(min_size=1).filter(lambda b: b"\n" not in b and b.strip())),
    st.integers(1, 9),
)
def test_lines_come_out_whole_however_they_are_cut(lines: list[bytes], step: int) -> None:
    data = b"".join(line + b"\n" for line in lines)
    splitter = LineSplitter()
    found: list[bytes] = []
    for start in range(0, len(data), step):
        found += splitter.feed(data[start : start + step])
    assert found == lines
