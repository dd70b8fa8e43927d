"""The two unix sockets a DRA plugin serves: the DRA service, and the registration that tells the kubelet of it.

In: paths, gRPC handlers, and a ``drain`` that ends running work. Started and stopped by the plugin's composition root.
Promises: one instance per data directory; a socket has its name only while somebody answers behind it (so that the
kubelet's one-second GetInfo always meets a warm server); no socket of ours is left after ``stop``.

grpcio binds over a live socket without a word, and when it stops it removes whatever then has the name. So a server
is bound to a hidden name and renamed when it serves, and names are ours only while we hold the lock of the directory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from nvdra_core.errors import ConfigError, FileError, LockTimeoutError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.rpc.callpool import DEFAULT_LANE, CallLanes
from nvdra_node.rpc.leangrpc import grpc

MAX_SOCKET_PATH = 107
"""Characters of a unix socket's path that grpcio accepts (the kernel's 108 with the closing zero)."""

MAX_CALLS = 2048
"""Calls of one server at the same time, running and waiting; above it gRPC answers RESOURCE_EXHAUSTED. Bounds memory: a
waiting call takes 20 kB, a running one 45 kB with its thread, so all of them take less than 60 MB."""

DRA_LANES = {"prepare": 256, "unprepare": 256, DEFAULT_LANE: 16}
"""Threads of the DRA service by lane: a thread for each call of 256 pods, so that none waits behind one that waits for
its device, and others for the health streams and the self-check."""

REGISTRATION_LANES = {DEFAULT_LANE: 4}
STOP_GRACE_S = 1.0
LOCK_RETRY_S = 0.05

_log = log.get(__name__)


class SocketPaths(msgspec.Struct, frozen=True, kw_only=True):
    """Where one driver's sockets are."""

    driver: str
    data_dir: Path
    """``/var/lib/kubelet/plugins/<driver>``: this driver's alone, and the same path for the kubelet."""
    registry_dir: Path
    """``/var/lib/kubelet/plugins_registry``: watched by the kubelet."""

    @property
    def dra(self) -> Path:
        """The DRA service."""
        return self.data_dir / "dra.sock"

    @property
    def registration(self) -> Path:
        """The registration service."""
        return self.registry_dir / f"{self.driver}-reg.sock"

    @property
    def lock(self) -> Path:
        """Held exclusively by the one instance that may bind the sockets."""
        return self.data_dir / "nvdra.lock"

    def check(self) -> None:
        """Raises ConfigError when a socket's path is too long or not absolute."""
        for path in (self.dra, self.registration):
            if not path.is_absolute():
                raise ConfigError(f"socket {path}: the path must be absolute")
            length = len(os.fsencode(path))
            if length > MAX_SOCKET_PATH:
                raise ConfigError(
                    f"socket {path}: the path has {length} bytes, unix sockets allow"
                    f" {MAX_SOCKET_PATH}; move the kubelet's plugin directories to a shorter path"
                )


class InstanceLock:
    """The data directory's lock; whoever holds it may bind the sockets."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._fd: int | None = None

    def acquire(self, deadline: Deadline, stopping: threading.Event) -> None:
        """Wait for the lock; raises LockTimeoutError naming the holder, or FileError."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FileError(f"lock {self._path}: {error}", path=str(self._path)) from error
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            if self._clock.wait(stopping, LOCK_RETRY_S) or not deadline.remaining_s():
                os.close(fd)
                raise LockTimeoutError(
                    f"lock {self._path} is held by another instance of this plugin (pid {holder});"
                    " stop that one first"
                )
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
        self._fd = fd

    def release(self) -> None:
        """Let the next instance in; harmless when not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def clear_socket(path: Path, deadline: Deadline, clock: Clock) -> None:
    """Remove a socket that nobody serves any more. Call with the lock held.

    Whoever still answers is no instance of ours: LockTimeoutError if it does so until the deadline. ConfigError when
    there is something else than a socket.
    """
    never = threading.Event()
    while True:
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise ConfigError(f"{path} is not a socket; remove it")
        if not _is_served(path):
            path.unlink(missing_ok=True)
            return
        if not deadline.remaining_s():
            raise LockTimeoutError(
                f"socket {path} is served by another program; remove the other DRA driver"
                " (its DaemonSet pod, say) from this node first"
            )
        clock.wait(never, LOCK_RETRY_S)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except TimeoutError:
            return True  # a full backlog: alive, if not well
        except OSError as error:
            return error.errno not in {errno.ECONNREFUSED, errno.ENOENT}
    return True


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class SocketServer:
    """One gRPC server on one unix socket."""

    def __init__(self, path: Path, handlers: Sequence[Any], lanes: Mapping[str, int]) -> None:
        """``lanes``: threads by lane of the handlers (``callpool``)."""
        self.path = path
        self._handlers = handlers
        self._lanes = lanes
        self._pool: CallLanes | None = None
        self._server: Any = None
        self._identity: tuple[int, int] | None = None
        """Device and inode of the socket, which the kernel keeps while it is open."""

    def start(self) -> None:
        """Serve, and only then give the socket its name. Raises FileError."""
        self._pool = CallLanes(self._lanes, self.path.stem)
        self._server = grpc.server(self._pool, maximum_concurrent_rpcs=MAX_CALLS)
        for handler in self._handlers:
            self._server.add_generic_rpc_handlers((handler,))
        # The kubelet ignores hidden names; this one is never longer than the socket's own.
        hidden = self.path.with_name(f".{self.path.name.removesuffix('.sock')}")
        hidden.unlink(missing_ok=True)
        try:
            self._server.add_insecure_port(f"unix:{hidden}")
            self._server.start()
            hidden.chmod(0o600)
            self._identity = _identity(hidden)
            hidden.rename(self.path)
        except (OSError, RuntimeError) as error:
            self.stop(0.0)
            raise FileError(
                f"socket {self.path} cannot be served: {error}", path=str(self.path)
            ) from error

    def has_name(self) -> bool:
        """Whether the name stands for this socket: other programs bind over one without a word."""
        return self._identity is not None and _identity(self.path) == self._identity

    def hide(self) -> None:
        """Take the socket's name away: nobody new can connect. Somebody else's socket of that name stays."""
        if self.has_name():
            self.path.unlink(missing_ok=True)

    def stop(self, grace_s: float) -> None:
        """End all calls after ``grace_s`` and wait for it. May be called again."""
        if self._server is None:
            return
        self.hide()
        self._server.stop(grace_s).wait()
        self._server = None
        if self._pool is not None:
            self._pool.close()


class PluginServer:
    """Both sockets of a plugin, in the right order. Built without touching anything."""

    def __init__(
        self,
        paths: SocketPaths,
        dra_handlers: Sequence[Any],
        registration_handlers: Sequence[Any],
        clock: Clock,
    ) -> None:
        self._paths = paths
        self._clock = clock
        self._registration_handlers = registration_handlers
        self._lock = InstanceLock(paths.lock, clock)
        self._dra = SocketServer(paths.dra, dra_handlers, DRA_LANES)
        self._registration = self._new_registration()
        self._guard = threading.Lock()
        self._is_running = False

    def start(self, deadline: Deadline, stopping: threading.Event) -> None:
        """Take the lock, clear what a crash left, serve DRA, then registration.

        Raises ConfigError (exit), LockTimeoutError (somebody else serves this driver) or FileError.
        """
        self._paths.check()
        self._make_directories()
        self._lock.acquire(deadline, stopping)
        try:
            for path in (self._paths.registration, self._paths.dra):
                clear_socket(path, deadline, self._clock)
            self._dra.start()
            with self._guard:
                self._registration.start()
                self._is_running = True
        except BaseException:
            self.stop(lambda: None)
            raise
        _log.info("serving", dra=self._dra.path, registration=self._registration.path)

    def register_again(self) -> None:
        """Take the registration socket away and bind it anew: the kubelet starts over.

        Raises FileError, and LockTimeoutError when another program serves the name by now.
        """
        with self._guard:
            if not self._is_running:
                return
            self._registration.stop(0.0)
            clear_socket(self._paths.registration, Deadline(0.0, self._clock), self._clock)
            self._registration = self._new_registration()
            self._make_directories()
            self._registration.start()

    def has_sockets(self) -> bool:
        """Whether both names are ours: somebody may empty the kubelet's directories, or start another driver."""
        return self._dra.has_name() and self._registration.has_name()

    def stop(self, drain: Callable[[], None]) -> None:
        """Finish running work (``drain`` refuses new work and waits), deregister, end. May be called again."""
        drain()
        with self._guard:
            self._is_running = False
            self._registration.stop(STOP_GRACE_S)
        self._dra.stop(STOP_GRACE_S)
        self._lock.release()

    def _new_registration(self) -> SocketServer:
        return SocketServer(
            self._paths.registration, self._registration_handlers, REGISTRATION_LANES
        )

    def _make_directories(self) -> None:
        _make_directory(self._paths.data_dir)
        _make_directory(self._paths.registry_dir)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"directory {path} cannot be made: {error}", path=str(path)) from error
