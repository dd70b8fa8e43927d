"""The daemon's process as the kernel tells of it: alive, and that it ended, without asking systemd. Used by ``unit``.

A pidfd names one process for good: as long as it lives, the incarnation that systemd told is the one that runs, and no
look at systemd is needed to know. When it ends, ``ended`` is called at once, from the thread that runs ``run``.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from typing import Protocol

from nvdra_core.runtime import log

_LOG = log.get(__name__)


class Life(Protocol):
    """One process, also after its end."""

    @property
    def has_ended(self) -> bool:
        """Whether it is there no more."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. Raises OSError."""

    def close(self) -> None:
        """Let go."""


class _Gone:
    """A process that had ended before it could be held."""

    has_ended = True

    def signal(self, number: signal.Signals) -> None:
        raise ProcessLookupError("the process has ended")

    def close(self) -> None:
        """See Life."""


class PidLife:
    """See Life; by a pidfd, which it owns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    @property
    def has_ended(self) -> bool:
        """See Life."""
        return bool(self._poll.poll(0))

    def signal(self, number: signal.Signals) -> None:
        """See Life."""
        signal.pidfd_send_signal(self._fd, number)

    def close(self) -> None:
        """See Life."""
        os.close(self._fd)


class Lives:
    """Holds processes, and tells when one ends."""

    def __init__(self) -> None:
        self._ended: Callable[[], None] = lambda: None
        self._epoll = select.epoll()
        self._end_r, self._end_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._epoll.register(self._end_r, select.EPOLLIN)

    def subscribe(self, ended: Callable[[], None]) -> None:
        """Call ``ended`` (cheap) when a held process has ended."""
        self._ended = ended

    def hold(self, pid: int) -> Life | None:
        """A process from now on; None where that cannot be had. The number must be a fresh one: numbers are used again,
        though not before all others were.
        """
        if pid <= 0:
            return None
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return _Gone()
        except OSError as error:
            _LOG.info("the process of nvidia-imex cannot be held", v=2, pid=pid, error=str(error))
            return None
        # Told once: a process that ended stays so. Closing the pidfd takes it out again.
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
        return PidLife(fd)

    def run(self, stopping: threading.Event) -> None:
        """Listen until ``stop``."""
        while not stopping.is_set():
            if any(fd != self._end_r for fd, _ in self._epoll.poll()):
                self._ended()

    def stop(self) -> None:
        """End ``run``, whose ``stopping`` is set; from any thread."""
        os.write(self._end_w, b"x")
