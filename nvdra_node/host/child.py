"""A child process that answers one line per line: spawn, send, receive, kill, reap. Used by ``nvml``.

No call waits without a limit. A child that SIGKILL does not end (blocked in the kernel) is collected by ``reap`` later.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from typing import Protocol

from nvdra_core.errors import HostError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.host import cpus

_STDERR_TAIL = 2000
_READ = 65536
_GIVE_UP_S = 0.25
"""Poll interval in which ``receive`` notices ``give_up``."""


class ChildEndedError(HostError):
    """The child ended (``status``: its exit status, negative for a signal; None: not known)."""

    def __init__(self, message: str, *, status: int | None) -> None:
        super().__init__(message)
        self.status = status


class LineChild(Protocol):
    """What ``nvml`` needs of a running child."""

    pid: int

    def send(self, line: bytes) -> None:
        """Write one line. Raises ChildEndedError."""

    def receive(self, deadline: Deadline) -> bytes | None:
        """The next line, without newline; None at the deadline. Raises ChildEndedError."""

    def give_up(self) -> None:
        """Make ``receive`` return as at its deadline; from any thread."""

    def kill(self, wait_s: float) -> bool:
        """SIGKILL, then wait; returns whether it has ended."""

    def reap(self) -> bool:
        """Whether a killed child has ended. Does not wait."""

    def has_exited(self, status: int) -> bool:
        """Whether it has exited with this status. Does not wait."""


class Child:
    """A real process with pipes. Not thread safe: the caller serialises."""

    def __init__(self, process: subprocess.Popen[bytes], stderr_fd: int) -> None:
        self.pid = process.pid
        self._process = process
        self._stderr_fd = stderr_fd
        self._unread = b""
        self._is_given_up = False

    @classmethod
    def start(cls, argv: Sequence[str]) -> Child:
        """Spawn with an empty environment, in its own session. Raises HostError."""
        read_end, write_end = os.pipe()
        # Nothing reads stderr while the child runs: it must not block on it, and output beyond the pipe is lost.
        for fd in (read_end, write_end):
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=write_end,
                bufsize=0,
                env={},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            os.close(read_end)
            raise HostError(f"{argv[0]}: could not be started: {error}") from error
        finally:
            os.close(write_end)
        cpus.spread(process.pid)
        return cls(process, read_end)

    def send(self, line: bytes) -> None:
        """See LineChild. Requests are far smaller than a pipe, so this does not block."""
        stream = self._process.stdin
        assert stream is not None  # noqa: S101  # opened as a pipe in start
        try:
            stream.write(line + b"\n")
        except OSError as error:
            raise self._ended() from error

    def receive(self, deadline: Deadline) -> bytes | None:
        """See LineChild."""
        stream = self._process.stdout
        assert stream is not None  # noqa: S101  # opened as a pipe in start
        poller = select.poll()
        poller.register(stream, select.POLLIN)
        while b"\n" not in self._unread:
            remaining_s = deadline.remaining_s()
            if not poller.poll(min(remaining_s, _GIVE_UP_S) * 1000):
                if remaining_s <= _GIVE_UP_S or self._is_given_up:
                    return None
                continue
            data = os.read(stream.fileno(), _READ)
            if not data:
                raise self._ended()
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def give_up(self) -> None:
        """See LineChild."""
        self._is_given_up = True

    def kill(self, wait_s: float) -> bool:
        """See LineChild."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return False
        self._close()
        return True

    def reap(self) -> bool:
        """See LineChild."""
        if self._process.poll() is None:
            return False
        self._close()
        return True

    def has_exited(self, status: int) -> bool:
        """See LineChild."""
        if self._process.poll() != status:
            return False
        self._close()
        return True

    def _ended(self) -> ChildEndedError:
        """The error for a closed pipe, with exit status and stderr; reaps the process."""
        try:
            status: int | None = self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            status = None
        tail = self._stderr_tail()
        how = f"exit status {status}" if status is not None else "its pipe closed"
        # Without the pid: this text becomes a device's health message, and each new text is an update to the kubelet.
        return ChildEndedError(
            f"its process ended ({how})" + (f": {tail}" if tail else ""), status=status
        )

    def _stderr_tail(self) -> str:
        with contextlib.suppress(OSError):
            data = os.read(self._stderr_fd, _READ)
            return data[-_STDERR_TAIL:].decode(errors="replace").strip()
        return ""

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if self._stderr_fd >= 0:
            os.close(self._stderr_fd)
            self._stderr_fd = -1
