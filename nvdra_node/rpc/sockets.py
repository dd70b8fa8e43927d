"""Unix sockets of a service: path limits, one instance per directory, removal of stale sockets.

grpcio binds over a live socket without an error, so a socket's name may be used only while the instance lock is held.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import threading
from pathlib import Path

from nvdra_core.errors import ConfigError, FileError, LockTimeoutError
from nvdra_core.runtime.clock import Clock, Deadline

MAX_PATH_BYTES = 107
"""sun_path of unix(7) has 108 bytes, with the closing zero."""

RETRY_S = 0.05
_PROBE_S = 1.0


class InstanceLock:
    """A lock file that one process holds at a time."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._fd: int | None = None

    def acquire(self, deadline: Deadline, stopping: threading.Event) -> None:
        """Wait for the lock. Raises LockTimeoutError with the holder's pid, or FileError."""
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
            if self._clock.wait(stopping, RETRY_S) or not deadline.remaining_s():
                os.close(fd)
                raise LockTimeoutError(
                    f"lock {self._path} is held by another instance of this service (pid {holder});"
                    " stop that one first"
                )
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
        self._fd = fd

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def check_path(path: Path) -> None:
    """Raises ConfigError for a socket path that is relative or too long."""
    if not path.is_absolute():
        raise ConfigError(f"socket {path}: the path must be absolute")
    length = len(os.fsencode(path))
    if length > MAX_PATH_BYTES:
        raise ConfigError(
            f"socket {path}: the path has {length} bytes, unix sockets allow {MAX_PATH_BYTES};"
            " configure a directory with a shorter path"
        )


def make_directory(path: Path) -> None:
    """Create a directory and its parents. Raises FileError."""
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"directory {path} cannot be made: {error}", path=str(path)) from error


def remove_stale(
    path: Path, deadline: Deadline, clock: Clock, remedy: str = "find it with ss -xlp and stop it"
) -> None:
    """Remove a socket that no process serves. Call with the instance lock held. ``remedy`` ends the error's text.

    Raises LockTimeoutError when another program serves it until the deadline, ConfigError when it is not a socket.
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
            raise LockTimeoutError(f"socket {path} is served by another program; {remedy}")
        clock.wait(never, RETRY_S)


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a path; None if it does not exist."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(os.fspath(path))
        except TimeoutError:
            return True  # the backlog is full: a process listens
        except OSError as error:
            return error.errno not in {errno.ECONNREFUSED, errno.ENOENT}
    return True
