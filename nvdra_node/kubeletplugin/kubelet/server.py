"""The two unix sockets of a DRA plugin: the DRA service, and the registration socket that the kubelet watches.

Guarantees one instance per data directory, a warm server behind each visible socket (the kubelet allows GetInfo one
second), and no socket left after ``stop``. Started and stopped by the composition root.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.rpc import sockets
from nvdra_node.rpc.server import AddService, UnixServer

STOP_GRACE_S = 1.0
_REMEDY = "remove the other DRA driver (its DaemonSet pod, for example) from this node first"

_LOG = log.get(__name__)


class SocketPaths(msgspec.Struct, frozen=True, kw_only=True):
    """Where one driver's sockets are."""

    driver: str
    data_dir: Path
    """``/var/lib/kubelet/plugins/<driver>``: used by this driver alone; the kubelet sees the same path."""
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
        """Locked by the one instance that may bind the sockets."""
        return self.data_dir / "nvdra.lock"

    def check(self) -> None:
        """Raises ConfigError for a socket path that is relative or too long."""
        for path in (self.dra, self.registration):
            sockets.check_path(path)


class PluginServer:
    """Starts and stops both sockets in the right order."""

    def __init__(
        self,
        paths: SocketPaths,
        dra_services: Sequence[AddService],
        registration_services: Sequence[AddService],
        clock: Clock,
    ) -> None:
        self._paths = paths
        self._clock = clock
        self._registration_services = registration_services
        self._lock = sockets.InstanceLock(paths.lock, clock)
        self._dra = UnixServer(paths.dra, dra_services)
        self._registration = self._new_registration()
        self._guard = threading.Lock()
        self._is_running = False

    def start(self, deadline: Deadline, stopping: threading.Event) -> None:
        """Take the lock, remove stale sockets, serve DRA, then registration.

        Raises ConfigError, LockTimeoutError (another program serves this driver) or FileError.
        """
        self._paths.check()
        self._make_directories()
        self._lock.acquire(deadline, stopping)
        try:
            for path in (self._paths.registration, self._paths.dra):
                sockets.remove_stale(path, deadline, self._clock, _REMEDY)
            self._dra.start()
            with self._guard:
                self._registration.start()
                self._is_running = True
        except BaseException:
            self.stop(lambda: None)
            raise
        _LOG.info("serving", dra=self._dra.path, registration=self._registration.path)

    def register_again(self) -> None:
        """Replace the registration socket: the kubelet registers the plugin again.

        Raises FileError, and LockTimeoutError when another program serves that path.
        """
        with self._guard:
            if not self._is_running:
                return
            self._registration.stop(0.0)
            sockets.remove_stale(
                self._paths.registration, Deadline(0.0, self._clock), self._clock, _REMEDY
            )
            self._registration = self._new_registration()
            self._make_directories()
            self._registration.start()

    def has_sockets(self) -> bool:
        """Whether both paths are still this plugin's: they may be deleted, or replaced by another driver."""
        return self._dra.owns_path() and self._registration.owns_path()

    def stop(self, drain: Callable[[], None]) -> None:
        """Call ``drain`` (refuses new work, waits for running work), deregister, stop. Idempotent."""
        drain()
        with self._guard:
            self._is_running = False
            self._registration.stop(STOP_GRACE_S)
        self._dra.stop(STOP_GRACE_S)
        self._lock.release()

    def _new_registration(self) -> UnixServer:
        return UnixServer(self._paths.registration, self._registration_services)

    def _make_directories(self) -> None:
        sockets.make_directory(self._paths.data_dir)
        sockets.make_directory(self._paths.registry_dir)
