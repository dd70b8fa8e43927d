"""HTTP/1.1 over one socket, only what an API server speaks: the standard client costs four times the time and 2 MB.

In: request bytes and a Deadline. Out: status, headers and body, or a stream of body pieces. A connection serves one
request at a time and is owned by one thread; ``abort`` alone may come from another thread. Every wait ends at the
deadline. Anything unexpected from the peer is a TransportError and ends the connection.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Iterator

import msgspec

from nvdra_core.kube.errors import TransportError
from nvdra_core.runtime.clock import Deadline

HEAD_LIMIT = 64 * 1024
BODY_LIMIT = 256 * 1024 * 1024
CHUNK_LINE_LIMIT = 1024
READ_SIZE = 64 * 1024
SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
"""A peer that is gone without a word is noticed after about 30 s, also by a watch that only listens."""


class Head(msgspec.Struct, frozen=True):
    """The first part of an answer; header names are lower case, repeated ones joined with a comma."""

    status: int
    headers: dict[bytes, bytes]
    is_keepable: bool

    def text(self, name: bytes) -> str:
        """A header as text; empty when absent."""
        return self.headers.get(name, b"").decode("latin-1")


class Connection:
    """One connection to the API server; see the module."""

    __slots__ = (
        "_buffer", "_is_aborted", "_is_answered", "_sock", "generation", "idle_since_s", "is_used",
    )  # fmt: skip

    def __init__(self, generation: int) -> None:
        self._sock = socket.socket(socket.AF_UNIX)  # never used; ``connect`` puts the real one here
        self._buffer = bytearray()
        self._is_aborted = False
        self._is_answered = False
        self.generation = generation
        self.idle_since_s = 0.0
        self.is_used = False

    def connect(self, address: tuple[str, int], deadline: Deadline) -> None:
        """Connect to the first of the host's addresses that answers; raises OSError."""
        failure: OSError | None = None
        host, port = address
        found = socket.getaddrinfo(_encoded(host), port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, target in found:
            sock = socket.socket(family, kind, protocol)
            self._attach(sock)
            try:
                for level, option, value in SOCKET_OPTIONS:
                    sock.setsockopt(level, option, value)
                sock.settimeout(_timeout_s(deadline))
                sock.connect(target)
                return
            except OSError as error:
                failure = error
                sock.close()
        raise failure or OSError(f"{address[0]} has no address")

    def start_tls(
        self,
        context: ssl.SSLContext,
        server_name: str,
        session: ssl.SSLSession | None,
        deadline: Deadline,
    ) -> None:
        """Make the connection a TLS one, resuming ``session`` if the server agrees; raises OSError."""
        sock = context.wrap_socket(
            self._sock,
            server_hostname=_encoded(server_name),
            session=session,
            do_handshake_on_connect=False,
        )
        self._attach(sock)
        sock.settimeout(_timeout_s(deadline))
        sock.do_handshake()

    def tls_session(self) -> ssl.SSLSession | None:
        """What a later connection can resume; None without TLS or a ticket."""
        session = self._sock.session if isinstance(self._sock, ssl.SSLSocket) else None
        return session if session and session.has_ticket else None

    @property
    def is_resumed(self) -> bool:
        """Whether the handshake went on from an earlier session."""
        return isinstance(self._sock, ssl.SSLSocket) and bool(self._sock.session_reused)

    def _attach(self, sock: socket.socket) -> None:
        self._sock.close()  # after start_tls the descriptor is the new socket's and this does nothing
        self._sock = sock
        if self._is_aborted:  # by another thread, while the socket changed hands
            sock.close()
            raise TransportError("the connection was ended from this side")

    def is_stale(self) -> bool:
        """Whether an idle connection was closed (or sent something nobody asked for) meanwhile."""
        if self._buffer:
            return True
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        return bool(poller.poll(0))

    @property
    def is_aborted(self) -> bool:
        """Whether ``abort`` was called."""
        return self._is_aborted

    def abort(self) -> None:
        """End the connection from any thread; a thread that waits on it wakes up at once."""
        self._is_aborted = True
        try:
            # Not SSLSocket.shutdown: that one takes the TLS state away under the reading thread.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        except OSError:
            return  # it was never connected or is closed already

    def close(self) -> None:
        """End the connection; owner's thread only."""
        self._sock.close()

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Write all of ``data``."""
        self._is_answered = False
        try:
            self._sock.settimeout(_timeout_s(deadline))
            self._sock.sendall(data)
        except OSError as error:
            # Even so the peer may have read a complete request; only a kept connection is known to be stale.
            raise TransportError(f"sending failed: {error}", stale=self.is_used) from error

    def read_head(self, deadline: Deadline) -> Head:
        """Read the next final status line and headers, skipping 1xx."""
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            while end < 0:
                if len(self._buffer) > HEAD_LIMIT:
                    raise TransportError(f"the answer's head is larger than {HEAD_LIMIT} bytes")
                seen = len(self._buffer)
                self._fill(deadline)
                end = self._buffer.find(b"\r\n\r\n", max(0, seen - 3))
            head = parse_head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
            if head.status >= 200:
                return head

    def read_body(self, head: Head, deadline: Deadline) -> bytes:
        """Read the whole body."""
        length = content_length(head)
        if length is None:
            return b"".join(self.stream_body(head, deadline))
        if length > BODY_LIMIT:
            raise TransportError(f"the answer of {length} bytes is larger than {BODY_LIMIT}")
        while len(self._buffer) < length:
            self._fill(deadline)
        if len(self._buffer) == length:
            body, self._buffer = self._buffer, bytearray()
            return bytes(body)
        body = self._buffer[:length]
        del self._buffer[:length]
        return bytes(body)

    def stream_body(self, head: Head, deadline: Deadline) -> Iterator[bytes]:
        """The body in pieces, as they come; their borders mean nothing. At most BODY_LIMIT bytes unless chunked."""
        length = content_length(head)
        if length is not None:
            yield self.read_body(head, deadline)
        elif b"transfer-encoding" in head.headers:
            yield from self._stream_chunks(deadline)
        else:
            yield from self._stream_to_end(deadline)

    def _stream_chunks(self, deadline: Deadline) -> Iterator[bytes]:
        while True:
            size = chunk_size(self._read_line(deadline))
            if size == 0:
                break
            while size:
                if not self._buffer:
                    self._fill(deadline)
                piece = bytes(self._buffer[:size])
                del self._buffer[: len(piece)]
                size -= len(piece)
                yield piece
            if self._read_line(deadline):
                raise TransportError("a chunk of the answer is longer than it said")
        while self._read_line(deadline):
            pass  # trailers say nothing that we need

    def _stream_to_end(self, deadline: Deadline) -> Iterator[bytes]:
        while True:
            if self._buffer:
                piece = bytes(self._buffer)
                self._buffer.clear()
                yield piece
            if not self._receive(deadline):
                return

    def _read_line(self, deadline: Deadline) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > CHUNK_LINE_LIMIT:
                raise TransportError("a chunk of the answer has no size")
            self._fill(deadline)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _fill(self, deadline: Deadline) -> None:
        if not self._receive(deadline):
            raise TransportError(
                "the server closed the connection before its answer was complete",
                stale=self.is_used and not self._is_answered,
            )

    def _receive(self, deadline: Deadline) -> bool:
        """Append what comes next; False at the end of the stream."""
        try:
            self._sock.settimeout(_timeout_s(deadline))
            data = self._sock.recv(READ_SIZE)
        except TimeoutError as error:
            raise TransportError("no answer in time") from error
        except OSError as error:
            is_stale = self.is_used and not self._is_answered
            raise TransportError(f"reading failed: {error}", stale=is_stale) from error
        if not data:
            return False
        self._is_answered = True
        self._buffer += data
        return True


def _encoded(host: str) -> bytes:
    """A host's name as it goes over the wire. Plain ones are not left to Python, which loads 0.5 MB of tables first."""
    return host.encode("ascii" if host.isascii() else "idna")


def _timeout_s(deadline: Deadline) -> float:
    remaining_s = deadline.remaining_s()
    if remaining_s <= 0.0:
        raise TransportError("no answer in time")
    return remaining_s


def parse_head(data: bytes) -> Head:
    """Parse a status line and headers (without the empty line); raises TransportError when it is not HTTP/1."""
    lines = data.split(b"\r\n")
    parts = lines[0].split(b" ", 2)
    if len(parts) < 2 or parts[0] not in {b"HTTP/1.1", b"HTTP/1.0"} or not _is_status(parts[1]):
        raise TransportError(f"the peer does not speak HTTP/1.1: {lines[0][:80]!r}")
    headers: dict[bytes, bytes] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name or name[:1] in b" \t" or name[-1:] in b" \t":
            raise TransportError(f"malformed header in the answer: {line[:80]!r}")
        key = name.lower()
        value = value.strip(b" \t")
        headers[key] = headers[key] + b", " + value if key in headers else value
    is_keepable = (
        parts[0] == b"HTTP/1.1" and b"close" not in headers.get(b"connection", b"").lower()
    )
    head = Head(int(parts[1]), headers, is_keepable)
    if b"transfer-encoding" in headers:
        if headers[b"transfer-encoding"].lower() != b"chunked" or b"content-length" in headers:
            raise TransportError("the answer's length is ambiguous")
    elif is_keepable and content_length(head) is None:
        return Head(head.status, headers, is_keepable=False)  # the body ends with the connection
    return head


def content_length(head: Head) -> int | None:
    """The body's length in bytes; None when only the chunks or the end of the connection tell."""
    if head.status in {204, 304} or head.status < 200:
        return 0
    if b"transfer-encoding" in head.headers:
        return None
    text = head.headers.get(b"content-length")
    if text is None:
        return None
    if not text.isdigit():
        raise TransportError(f"malformed content-length in the answer: {text[:80]!r}")
    return int(text)


def chunk_size(line: bytes) -> int:
    """The size in a chunk's first line; extensions are ignored."""
    digits = line.partition(b";")[0].strip(b" \t")
    if not digits or len(digits) > 8 or digits.strip(b"0123456789abcdefABCDEF"):
        raise TransportError(f"malformed chunk size in the answer: {line[:80]!r}")
    return int(digits, 16)


def _is_status(text: bytes) -> bool:
    return len(text) == 3 and text.isdigit()
