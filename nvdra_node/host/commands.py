"""Runs the host's programs (nvidia-ctk, nvidia-smi, systemctl ...): the only user of subprocess beside ``child``.

No shell, a fixed environment, a deadline, an output limit; the whole process group is killed. ``run`` returns when the
program ends, even if a daemon that it left behind keeps its pipes open.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence

import msgspec

from nvdra_core.errors import CommandError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.host import cpus
from nvdra_node.host.ports import CommandResult

CLEAN_ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
}
OUTPUT_LIMIT_BYTES = 4 * 2**20

MAX_UNKILLABLE = 4
"""Runs of one program that may hang in the kernel, each keeping its memory, before no more are started."""

_READ = 65536
_KILL_WAIT_S = 1.0
_CLOSE_S = 0.25
"""Poll interval in which a call notices ``close``."""
_TAIL = 2000


class _Running(msgspec.Struct, frozen=True):
    """A started program and what it has written so far."""

    argv: tuple[str, ...]
    process: subprocess.Popen[bytes]
    streams: dict[str, bytearray] = msgspec.field(
        default_factory=lambda: {"out": bytearray(), "err": bytearray()}
    )

    def text(self, name: str) -> str:
        return self.streams[name].decode(errors="replace")

    def error(self, message: str, returncode: int | None) -> CommandError:
        output = (self.text("err") or self.text("out"))[-_TAIL:].strip()
        shown = f": {output}" if output else ""
        return CommandError(
            f"{' '.join(self.argv)}: {message}{shown}",
            argv=self.argv,
            returncode=returncode,
            output=output,
        )


def _not_started(argv: tuple[str, ...], why: str) -> CommandError:
    return CommandError(f"{' '.join(argv)}: {why}", argv=argv, returncode=None, output="")


def kill_group(process: subprocess.Popen[bytes], wait_s: float = _KILL_WAIT_S) -> bool:
    """Kill a program's process group; returns whether it ended within ``wait_s``."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        return False
    return True


class SystemCommands:
    """Runs programs of this machine. Safe for several threads."""

    def __init__(
        self,
        environment: Mapping[str, str] = CLEAN_ENVIRONMENT,
        output_limit_bytes: int = OUTPUT_LIMIT_BYTES,
        kill: Callable[[subprocess.Popen[bytes]], bool] = kill_group,
    ) -> None:
        """``kill`` ends a program; returns False if it hangs in the kernel."""
        self._environment = dict(environment)
        self._output_limit_bytes = output_limit_bytes
        self._kill_program = kill
        self._lock = threading.Lock()
        self._unkillable: list[_Running] = []
        self._is_closed = threading.Event()

    def close(self) -> None:
        """See ports.Commands."""
        self._is_closed.set()

    def run(self, argv: Sequence[str], deadline: Deadline) -> CommandResult:
        """See ports.Commands. An unkillable program is reaped by a later call."""
        self._require_room(tuple(argv))
        running = _Running(tuple(argv), self._start(tuple(argv)))
        try:
            self._collect(running, deadline)
        except BaseException:
            self._kill(running)
            raise
        finally:
            for stream in (running.process.stdout, running.process.stderr):
                if stream is not None:
                    stream.close()
        status = running.process.returncode
        if status != 0:
            raise running.error(f"ended with status {status}", status)
        return CommandResult(stdout=running.text("out"), stderr=running.text("err"))

    def _start(self, argv: tuple[str, ...]) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=self._environment,
                cwd="/",
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise _not_started(argv, f"could not be started: {error}") from error
        cpus.spread(process.pid)
        return process

    def _collect(self, running: _Running, deadline: Deadline) -> None:
        """Read until the program ends; raises CommandError on a passed deadline or too much output."""
        process = running.process
        end_fd = os.pidfd_open(process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(end_fd, selectors.EVENT_READ)
                for name, stream in (("out", process.stdout), ("err", process.stderr)):
                    if stream is not None:
                        os.set_blocking(stream.fileno(), False)
                        selector.register(stream, selectors.EVENT_READ, name)
                self._read_to_end(running, selector, deadline)
        finally:
            os.close(end_fd)
        process.wait()

    def _read_to_end(
        self, running: _Running, selector: selectors.BaseSelector, deadline: Deadline
    ) -> None:
        ended = False
        while not ended:
            remaining_s = deadline.remaining_s()
            ready = selector.select(min(remaining_s, _CLOSE_S))
            if self._is_closed.is_set():
                raise running.error("was killed because the service stops", None)
            if not ready and remaining_s <= _CLOSE_S:
                raise running.error("did not end in time and was killed", None)
            ended = any(key.data is None for key, _ in ready)
            # After the end, all output of the program is in the pipes: read it in one last round.
            keys = list(selector.get_map().values()) if ended else [key for key, _ in ready]
            for key in keys:
                if key.data is not None and not self._drain(
                    running, key.fd, key.data, everything=ended
                ):
                    selector.unregister(key.fileobj)

    def _drain(self, running: _Running, fd: int, name: str, *, everything: bool) -> bool:
        """Read what a pipe has (one piece, or all); False at its end."""
        buffer = running.streams[name]
        while True:
            try:
                data = os.read(fd, _READ)
            except BlockingIOError:
                return True
            if not data:
                return False
            buffer += data
            if len(buffer) > self._output_limit_bytes:
                raise running.error(
                    f"wrote more than {self._output_limit_bytes} bytes and was killed", None
                )
            if not everything:
                return True

    def _kill(self, running: _Running) -> None:
        if not self._kill_program(running.process):
            with self._lock:
                self._unkillable.append(running)

    def _require_room(self, argv: tuple[str, ...]) -> None:
        """Reap ended programs. Raises CommandError with too many hanging runs of this program, or after ``close``."""
        with self._lock:
            self._unkillable = [r for r in self._unkillable if r.process.poll() is None]
            stuck = [r for r in self._unkillable if r.argv[0] == argv[0]]
        why = ""
        if self._is_closed.is_set():
            why = "the service stops"
        elif len(stuck) >= MAX_UNKILLABLE:
            why = (
                f"{len(stuck)} runs of it hang in the kernel and cannot be killed; "
                "the node needs a GPU reset or a reboot"
            )
        if why:
            raise _not_started(argv, f"not started, {why}")
