"""A gRPC server on a unix socket.

grpcio binds over a live socket without an error, and on stop removes whatever has the socket's name. So a server binds
a hidden name, which is renamed once it serves: a client that sees the socket always meets a running server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from nvdra_core.errors import FileError
from nvdra_core.runtime import log
from nvdra_node.rpc.sockets import identity

_LOG = log.get(__name__)

MAX_CALLS = 1024
"""Calls of one server at the same time, each with a thread, so that calls which wait starve no others; above it gRPC
answers RESOURCE_EXHAUSTED. A node has at most some hundred pods, and each has one call at a time. A waiting call
with its thread takes 45 kB."""

AddService = Callable[[Any], None]
"""Adds a service to a ``grpc.Server``; generated as ``add_...Servicer_to_server``."""


class CallThreads(ThreadPoolExecutor):
    """A call waits while the system starts no more threads: the error would end grpcio's server thread."""

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            if not self._threads:
                raise
            _LOG.warning("cannot start a thread for a call; it waits for another call", error)


class UnixServer:
    """See the module."""

    def __init__(self, path: Path, services: Sequence[AddService]) -> None:
        self.path = path
        self._services = services
        self._pool: ThreadPoolExecutor | None = None
        self._server: Any = None
        self._identity: tuple[int, int] | None = None
        """Of the bound socket: device and inode, not reused while it is open."""

    def start(self) -> None:
        """Serve, then rename the socket to ``path``. Raises FileError."""
        self._pool = CallThreads(MAX_CALLS, thread_name_prefix=self.path.stem)
        self._server = grpc.server(self._pool, maximum_concurrent_rpcs=MAX_CALLS)
        for add in self._services:
            add(self._server)
        # The kubelet ignores hidden names. This one is never longer than ``path``.
        hidden = self.path.with_name(f".{self.path.name.removesuffix('.sock')}")
        hidden.unlink(missing_ok=True)
        try:
            self._server.add_insecure_port(f"unix:{hidden}")
            self._server.start()
            hidden.chmod(0o600)
            self._identity = identity(hidden)
            hidden.rename(self.path)
        except (OSError, RuntimeError) as error:
            self.stop(0.0)
            raise FileError(
                f"socket {self.path} cannot be served: {error}", path=str(self.path)
            ) from error

    def owns_path(self) -> bool:
        """Whether ``path`` is still this server's socket: other programs may remove or replace it."""
        return self._identity is not None and identity(self.path) == self._identity

    def unlink(self) -> None:
        """Unlink ``path``, unless it is another program's socket: no new client can connect."""
        if self.owns_path():
            self.path.unlink(missing_ok=True)

    def stop(self, grace_s: float) -> None:
        """Unlink the socket, cancel calls that still run after ``grace_s``, and wait for that. Idempotent."""
        if self._server is None:
            return
        self.unlink()
        self._server.stop(grace_s).wait()
        self._server = None
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
