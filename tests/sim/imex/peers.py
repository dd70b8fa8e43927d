"""Connections between daemons: real TCP (or TLS), one outgoing connection to each other node, lines of JSON."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.sim.imex.names import Names
from tests.sim.imex.settings import Control

BACKOFF_S = (15.0, 31.0, 62.0, 125.0)
TALK_S = 1.0
CONNECT_S = 2.0


@dataclass
class Peer:
    """Another node, as this daemon sees it."""

    id: int
    name: str
    host: str = ""
    connection: str = "DISCONNECTED"
    changed: float = field(default_factory=time.time)
    state: str = "UNAVAILABLE"
    version: str = ""
    connections: dict[str, Any] = field(default_factory=dict)

    def become(self, connection: str) -> None:
        if connection != self.connection:
            self.connection = connection
            self.changed = time.time()


@dataclass
class Fabric:
    """The domain as one daemon sees it."""

    own: int
    nodes: list[str]
    digest: str
    version: str
    port: int
    names: Names
    control: Control
    log: Callable[[str], None]
    state: Callable[[], str]
    server_tls: Callable[[], ssl.SSLContext | None]
    client_tls: Callable[[], ssl.SSLContext | None]
    target: str = ""

    def __post_init__(self) -> None:
        self.peers = {i: Peer(i, name) for i, name in enumerate(self.nodes) if i != self.own}
        self.stopping = threading.Event()
        self.reconnect = threading.Condition()
        self.round = 0
        self.changed = threading.Event()
        self._accepted: set[socket.socket] = set()

    def start(self, address: str) -> None:
        address = self.control.reached_at(address)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.listener = socket.create_server((address, self.port), family=family)
        self._spawn(self._accept)
        for peer in self.peers.values():
            self._spawn(partial(self._keep, peer))

    def stop(self) -> None:
        self.stopping.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in list(self._accepted):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.restart()

    def restart(self) -> None:
        """SIGUSR1: resolve again and connect again, now."""
        with self.reconnect:
            self.round += 1
            self.reconnect.notify_all()

    def connections(self) -> dict[str, Any]:
        """As `-N -j` shows a node's connections."""
        return {
            str(p.id): {"host": p.host, "status": p.connection, "changed": p.changed}
            for p in self.peers.values()
        }

    def connected(self) -> set[int]:
        return {p.id for p in self.peers.values() if p.connection == "CONNECTED"}

    def _spawn(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, daemon=True).start()

    # --- outgoing
    def _keep(self, peer: Peer) -> None:
        failures = 0
        while not self.stopping.is_set():
            seen = self.round
            if self._talk(peer, seen):
                failures = 0
            self.changed.set()
            with self.reconnect:
                if self.round == seen and not self.stopping.is_set():
                    pause_s = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
                    self.reconnect.wait(self.control.seconds(pause_s))
                if self.round != seen:
                    failures = -1
            failures += 1

    def _talk(self, peer: Peer, seen: int) -> bool:
        """One connection until it ends; whether it was established."""
        peer.host = self.names.address(peer.name)
        refused = self.control.get("refuse_peers", [])
        if not peer.host or (isinstance(refused, list) and peer.id in refused):
            peer.become("INVALID" if not peer.host else "DISCONNECTED")
            peer.state = "UNAVAILABLE"
            return False
        try:
            with self._connect(peer) as connection:
                return self._converse(peer, connection, seen)
        except (OSError, ValueError) as error:
            self.log(f"connection to node {peer.id} ({peer.host}) failed: {error}")
            if peer.connection not in ("INVALID", "NODE_MAP_MISMATCH", "VERSION_MISMATCH"):
                peer.become("DISCONNECTED")
            return False
        finally:
            peer.state = "UNAVAILABLE"
            if peer.connection == "CONNECTED":
                peer.become("DISCONNECTED")

    def _connect(self, peer: Peer) -> socket.socket:
        connection = socket.create_connection(
            (self.control.reached_at(peer.host), self.port), timeout=CONNECT_S
        )
        context = self.client_tls()
        if context is None:
            return connection
        return context.wrap_socket(connection, server_hostname=self.target or peer.name)

    def _converse(self, peer: Peer, connection: socket.socket, seen: int) -> bool:
        lines = connection.makefile("rw")
        answer = _ask(lines, {"hello": self.own, "digest": self.digest, "version": self.version})
        if answer.get("error"):
            self.log(f"node {peer.id} ({peer.host}) refused: {answer['error']}")
            peer.version = str(answer.get("version") or "")
            peer.become(str(answer.get("status") or "INVALID"))
            return False
        if answer.get("id") != peer.id:
            self.log(f"node {peer.id} ({peer.host}) reports id {answer.get('id')}")
            peer.become("INVALID")
            return False
        peer.version = str(answer.get("version"))
        peer.become("CONNECTED")
        while not self.stopping.is_set() and self.round == seen:
            answer = _ask(lines, {"state": self.state(), "connections": self.connections()})
            if peer.state != answer["state"]:
                self.changed.set()
            peer.state, peer.connections = answer["state"], answer["connections"]
            with self.reconnect:
                if self.round == seen:
                    self.reconnect.wait(min(self.control.seconds(TALK_S), TALK_S))
            refused = self.control.get("refuse_peers", [])
            if isinstance(refused, list) and peer.id in refused:
                return True
        return True

    # --- incoming
    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self._accepted.add(connection)
            self._spawn(partial(self._serve, connection))

    def _serve(self, connection: socket.socket) -> None:
        try:
            context = self.server_tls()
            connection.settimeout(60.0)
            if context is not None:
                raw = connection
                connection = context.wrap_socket(connection, server_side=True)
                self._accepted.discard(raw)
                self._accepted.add(connection)
            with connection, connection.makefile("rw") as lines:
                self._answer(lines)
        except (OSError, ValueError) as error:
            self.log(f"incoming connection ended: {error}")
        finally:
            self._accepted.discard(connection)

    def _answer(self, lines: Any) -> None:
        for line in lines:
            request = json.loads(line)
            if "hello" in request:
                answer: dict[str, Any] = {"id": self.own, "version": self.version}
                if request["digest"] != self.digest:
                    self.log(f"nodes config of node {request['hello']} is not matching")
                    answer = {"error": "nodes config not matching", "status": "NODE_MAP_MISMATCH"}
                elif request["version"] != self.version:
                    self.log(f"version {request['version']} of node {request['hello']} is not ours")
                    answer |= {"error": "version not matching", "status": "VERSION_MISMATCH"}
                elif request["hello"] not in self.peers:
                    answer = {"error": f"no node {request['hello']}"}
                elif request["hello"] in list(self.control.get("refuse_peers", []) or []):  # type: ignore[call-overload]
                    return
            else:
                answer = {"state": self.state(), "connections": self.connections()}
            lines.write(json.dumps(answer) + "\n")
            lines.flush()
            if "error" in answer or self.stopping.is_set():
                return


def _ask(lines: Any, request: dict[str, Any]) -> dict[str, Any]:
    lines.write(json.dumps(request) + "\n")
    lines.flush()
    line = lines.readline()
    if not line:
        raise OSError("the peer closed the connection")
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise ValueError("no answer of a peer")
    return answer
