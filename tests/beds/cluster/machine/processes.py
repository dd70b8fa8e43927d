"""Programs that run until they are ended: started apart from this process, recorded on disk, ended by recorded pid.

A record holds the pid and the time the process started, so that a pid that was given to another process in the meantime
is never signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.beds.cluster.machine import cgroups
from tests.lib.waits import WaitError, wait_until

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Processes that this very process started and therefore must reap."""


@dataclass(frozen=True)
class Process:
    """One program that was started: who it is, and where its output goes."""

    name: str
    pid: int
    started_ticks: int
    log: str
    own_cgroup: str = ""
    """A cgroup that holds this program and its descendants alone; they end with it."""

    @property
    def is_running(self) -> bool:
        """Whether the process still runs; one that ended and waits to be reaped does not."""
        if self.pid in _children:
            _children[self.pid].poll()
        return _started_ticks(self.pid) == self.started_ticks

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs or when another process started it."""
        child = _children.get(self.pid)
        return child.poll() if child else None

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout_s: float = 30) -> int | None:
        """Wait until the process has ended; return its status where it is known."""
        wait_until(
            f"{self.name} (pid {self.pid}) ends",
            lambda: not self.is_running,
            timeout_s=timeout_s,
            interval_s=0.02,
        )
        return self.returncode

    def end(self, timeout_s: float = 10, *, kill: bool = False) -> int | None:
        """End the process: ask it (SIGTERM), and kill it after `timeout_s` or, with `kill`, at once."""
        self.signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            status = self.wait(timeout_s)
        except WaitError:
            self.signal(signal.SIGKILL)
            status = self.wait(10)
        if self.own_cgroup:
            cgroups.end_processes(self.own_cgroup)
            cgroups.remove(self.own_cgroup)
        return status

    def output(self) -> str:
        """Return what the process wrote so far."""
        return Path(self.log).read_text(errors="replace")


def start(
    argv: Sequence[str],
    *,
    name: str,
    cgroup: str,
    log: Path,
    records: Path,
    env: Mapping[str, str],
    owns_cgroup: bool = False,
) -> Process:
    """Start a program in a cgroup, in a session of its own, with its output appended to `log`; record it.

    `owns_cgroup` says that nothing else is in the cgroup, so that `end` takes the program's descendants too.
    """
    cgroups.create(cgroup)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            cgroups.joined(cgroup, list(argv)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=dict(env),
            cwd="/",
        )
    _children[child.pid] = child
    own = cgroup if owns_cgroup else ""
    process = Process(name, child.pid, _started_ticks(child.pid) or 0, str(log), own)
    return _recorded(records, process)


def follow(records: Path, outer: Process, pid: int) -> Process:
    """Record the process `pid` in the place of `outer`, which only waits for it."""
    return _recorded(records, replace(outer, pid=pid, started_ticks=_started_ticks(pid) or 0))


def _recorded(records: Path, process: Process) -> Process:
    temporary = records / f".{process.name}"
    temporary.write_text(json.dumps(asdict(process)))
    temporary.rename(records / f"{process.name}.json")
    return process


def find(records: Path, name: str) -> Process | None:
    """Return the program that was started last under a name, running or not."""
    try:
        return Process(**json.loads((records / f"{name}.json").read_text()))
    except FileNotFoundError:
        return None


def all_recorded(records: Path) -> list[Process]:
    """Return every recorded program."""
    return [Process(**json.loads(path.read_text())) for path in sorted(records.glob("*.json"))]


def reap() -> None:
    """Take the exit status of every child that has ended, so that none stays a zombie."""
    for child in _children.values():
        child.poll()


def _started_ticks(pid: int) -> int | None:
    """Return when a live process started, in clock ticks since boot; None for a dead one or a zombie.

    A process that was killed is a zombie as soon as its first thread has ended; until the last one has, its sockets
    still accept connections and its ports are taken.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        state, *rest = text.rpartition(")")[2].split()
        if state in "ZX" and len(os.listdir(f"/proc/{pid}/task")) < 2:
            return None
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(rest[18])
