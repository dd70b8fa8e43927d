"""Watches the daemon's process by pidfd, so that its end is known at once and without asking systemd. Used by ``unit``.

A pidfd names one process even when its number is reused: while it lives, systemd's last InvocationID is still current.
One thread runs ``run`` and calls the subscriber when a process has ended.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable

from nvdra_core.runtime import log

_LOG = log.get(__name__)


class MonitoredProcess:
    """One process, also after its end. Owns its pidfd; None: it had ended before it was opened."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._poll = select.poll()
        if fd is not None:
            self._poll.register(fd, select.POLLIN)

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self._fd is None or bool(self._poll.poll(0))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. Raises OSError."""
        if self._fd is None:
            raise ProcessLookupError("the process has ended")
        signal.pidfd_send_signal(self._fd, number)

    def close(self) -> None:
        """Release the pidfd."""
        if self._fd is not None:
            os.close(self._fd)


class ProcessMonitor:
    """Opens processes and reports their end."""

    def __init__(self) -> None:
        self._ended: Callable[[], None] = lambda: None
        self._epoll = select.epoll()
        self._end_r, self._end_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._epoll.register(self._end_r, select.EPOLLIN)

    def subscribe(self, ended: Callable[[], None]) -> None:
        """Call ``ended`` (cheap) when an open process has ended."""
        self._ended = ended

    def open(self, pid: int) -> MonitoredProcess | None:
        """The process of a number that systemd has just reported; None where the kernel gives no pidfd."""
        if pid <= 0:
            return None
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return MonitoredProcess(None)
        except OSError as error:
            _LOG.info("cannot open a pidfd of nvidia-imex", v=2, pid=pid, error=str(error))
            return None
        # One event is enough: an ended process stays ended. Closing the pidfd unregisters it.
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
        return MonitoredProcess(fd)

    def run(self, stopping: threading.Event) -> None:
        """Wait for events until ``stop``."""
        while not stopping.is_set():
            if any(fd != self._end_r for fd, _ in self._epoll.poll()):
                self._ended()

    def stop(self) -> None:
        """Wake ``run`` after ``stopping`` was set; from any thread."""
        os.write(self._end_w, b"x")
