"""The fake's HTTP/1.1 server: one thread a connection, keep-alive, TLS if a context is given, faults on demand.

Fast on purpose: it is the API server of the benchmarks, where its own CPU must not count. Nothing here knows objects.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from http import HTTPStatus
from typing import Any

from tests.fakes.apiserver.api import CONTROL_PREFIX, Api, refusal, resource_of
from tests.fakes.apiserver.auth import User
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.listener.messages import HttpRequest, Reply
from tests.fakes.apiserver.requestlog import Line
from tests.fakes.apiserver.status import StatusError

HEAD_LIMIT = 64 * 1024
HANDSHAKE_TIMEOUT_S = 10.0
REASONS = {status.value: status.phrase for status in HTTPStatus}


class DisconnectError(Exception):
    """The connection ended."""


class Conversation:
    """One connection, in its own thread."""

    def __init__(self, sock: socket.socket, api: Api, tls: ssl.SSLContext | None) -> None:
        self._sock = sock
        self._api = api
        self._tls = tls
        self._buffer = b""
        self._peer: User | None = None

    def run(self) -> None:
        """Serve until the peer or the server ends the connection."""
        try:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start_tls()
            while self._serve_one():
                pass
        except (DisconnectError, OSError, ValueError):
            pass  # the peer's affair
        finally:
            self._sock.close()

    def end(self) -> None:
        """Wake the thread and let it end; from any thread."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def _start_tls(self) -> None:
        if self._tls is None:
            return
        self._sock.settimeout(HANDSHAKE_TIMEOUT_S)
        sock = self._tls.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        self._sock = sock
        sock.do_handshake()
        sock.settimeout(None)
        self._peer = _peer_user(sock)

    def _serve_one(self) -> bool:
        request = self._read()
        route, verb = self._api.classify(request)
        is_control = route.path.startswith(CONTROL_PREFIX)
        fault = None if is_control else self._api.faults.take(verb, resource_of(route))
        if fault is not None and fault.action != "slow":
            if fault.is_executed:
                self._api.answer(request, route, verb)
            else:
                code = fault.code if fault.action == "status" else 0
                self._api.log.add(Line(verb, resource_of(route), code, request.target, "", ""))
            return self._fail(fault)
        if fault is not None:
            self._api.faults.cleared.wait(fault.delay_s)
        reply = self._api.answer(request, route, verb)
        for warning in fault.warning.splitlines() if fault is not None else ():
            reply.headers.append(("Warning", f'299 - "{warning}"'))
        if reply.stream is not None:
            self._send_stream(reply)
            return False
        self._send(reply)
        return request.headers.get(b"connection", b"").lower() != b"close"

    def _read(self) -> HttpRequest:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise DisconnectError
            self._receive()
        lines = self._buffer[:end].split(b"\r\n")
        self._buffer = self._buffer[end + 4 :]
        method, target, _ = lines[0].split(b" ", 2)
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        body = self._read_body(headers)
        return HttpRequest(
            method.decode("ascii"), target.decode("ascii"), headers, body, self._peer
        )

    def _read_body(self, headers: dict[bytes, bytes]) -> bytes:
        length = int(headers.get(b"content-length", b"0"))
        return self._take(length) if length else b""

    def _take(self, length: int) -> bytes:
        if len(self._buffer) < length:
            parts, have = [self._buffer], len(self._buffer)
            self._buffer = b""
            while have < length:
                data = self._sock.recv(256 * 1024)
                if not data:
                    raise DisconnectError
                parts.append(data)
                have += len(data)
            self._buffer = b"".join(parts)
        found, self._buffer = self._buffer[:length], self._buffer[length:]
        return found

    def _receive(self) -> None:
        data = self._sock.recv(64 * 1024)
        if not data:
            raise DisconnectError
        self._buffer = self._buffer + data if self._buffer else data

    def _send(self, reply: Reply) -> None:
        self._sock.sendall(_head(reply, f"Content-Length: {len(reply.body)}\r\n") + reply.body)

    def _send_stream(self, reply: Reply) -> None:
        assert reply.stream is not None
        self._sock.sendall(_head(reply, "Transfer-Encoding: chunked\r\nConnection: close\r\n"))
        poller = select.poll()
        poller.register(self._sock, select.POLLIN | select.POLLRDHUP)
        for piece in reply.stream:
            if piece:
                self._sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            if poller.poll(0):
                raise DisconnectError  # a watching client says nothing more until it leaves
        self._sock.sendall(b"0\r\n\r\n")

    def _fail(self, fault: Fault) -> bool:
        if fault.action == "status":
            reply = refusal(StatusError(fault.code, f"fault: {fault.code} as ordered"))
            if fault.retry_after_s is not None:
                reply.headers.append(("Retry-After", str(fault.retry_after_s)))
            self._send(reply)
            return True
        if fault.action == "hang":
            self._api.faults.cleared.wait(fault.delay_s or None)
        elif fault.action == "reset":
            linger = struct.pack("ii", 1, 0)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif fault.action == "cut":
            self._sock.sendall(_head(Reply(200), "Content-Length: 1000\r\n") + b'{"kind":')
        return False


def _head(reply: Reply, length: str) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
    return (
        f"HTTP/1.1 {reply.code} {REASONS.get(reply.code, '')}\r\n"
        f"Content-Type: {reply.content_type}\r\n{length}{more}\r\n"
    ).encode("latin-1")


def _peer_user(sock: ssl.SSLSocket) -> User | None:
    certificate = sock.getpeercert()
    if not certificate:
        return None
    subject: Any = certificate.get("subject", ())
    pairs = [(str(pair[0]), str(pair[1])) for part in subject for pair in part]
    names = [value for key, value in pairs if key == "commonName"]
    groups = tuple(value for key, value in pairs if key == "organizationName")
    return User(names[0], (*groups, "system:authenticated")) if names else None


class Listener:
    """Accepts connections on loopback; can go away and come back on the same port."""

    def __init__(self, api: Api, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._api = api
        self._tls = tls
        self._lock = threading.Lock()
        self._conversations: set[Conversation] = set()
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self.port = port

    def open(self) -> None:
        """Listen; the port stays the same after the first time."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        sock.listen(256)
        self.port = sock.getsockname()[1]
        self._socket = sock
        self._thread = threading.Thread(
            target=self._accept, args=(sock,), name=f"fake-api-{self.port}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Refuse new connections and end those there are."""
        sock, self._socket = self._socket, None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        if self._thread is not None:
            self._thread.join()
        self.end_connections()

    def end_connections(self) -> None:
        """End all connections, as a server does with idle ones."""
        with self._lock:
            found = list(self._conversations)
        for conversation in found:
            conversation.end()

    def set_tls(self, tls: ssl.SSLContext) -> None:
        """Serve later connections with another certificate."""
        self._tls = tls

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            conversation = Conversation(sock, self._api, self._tls)
            with self._lock:
                self._conversations.add(conversation)
            threading.Thread(
                target=self._converse, args=(conversation,), name="fake-api-connection", daemon=True
            ).start()

    def _converse(self, conversation: Conversation) -> None:
        try:
            conversation.run()
        finally:
            with self._lock:
                self._conversations.discard(conversation)
