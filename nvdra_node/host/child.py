"""A child process that answers lines with lines: spawn, ask, give up, kill, reap. Knows nothing of NVML.

Used by ``nvml`` alone. Starts nothing by itself except in ``Child.start``. A child that does not die of SIGKILL (stuck
in the kernel) stays a zombie-to-be that ``reap`` asks for later; nothing here ever waits without an end.
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
"""How soon ``receive`` sees that it was given up."""


class ChildGoneError(HostError):
    """The child ended (``status``: its exit status, negative for a signal; None: not known)."""

    def __init__(self, message: str, *, status: int | None) -> None:
        super().__init__(message)
        self.status = status


class LineChild(Protocol):
    """What ``nvml`` needs of a running child."""

    pid: int

    def send(self, line: bytes) -> None:
        """Write one line. Raises ChildGoneError."""

    def receive(self, deadline: Deadline) -> bytes | None:
        """Next line without its end; None when the deadline passes first. Raises ChildGoneError."""

    def give_up(self) -> None:
        """Let ``receive`` behave as if its deadline had passed; from any thread."""

    def kill(self, wait_s: float) -> bool:
        """SIGKILL, then wait a little; whether it is gone."""

    def reap(self) -> bool:
        """Whether a killed child has meanwhile gone. Does not wait."""

    def has_exited(self, status: int) -> bool:
        """Whether it has ended by itself with this exit status. Does not wait."""


class Child:
    """A real process with pipes. Not for several threads at once: the caller serialises."""

    def __init__(self, process: subprocess.Popen[bytes], stderr_fd: int) -> None:
        self.pid = process.pid
        self._process = process
        self._stderr_fd = stderr_fd
        self._unread = b""
        self._is_given_up = False

    @classmethod
    def start(cls, argv: Sequence[str]) -> Child:
        """Spawn with an empty environment, in a session of its own. Raises HostError."""
        read_end, write_end = os.pipe()
        # The child must never block on stderr that nobody reads: what does not fit is lost.
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
            raise self._gone() from error

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
                raise self._gone()
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

    def _gone(self) -> ChildGoneError:
        """The pipe is closed: collect what can be known, and leave no process behind."""
        try:
            status: int | None = self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            status = None
        tail = self._stderr_tail()
        how = f"exit status {status}" if status is not None else "its pipe closed"
        # Without its number: this becomes the health of a device, and each new text is news to the kubelet.
        return ChildGoneError(
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
