"""Which CPUs the threads of this process run on, and how long they wait for them. Used by ``app.onecpu``.

Programs inherit the CPUs of the thread that starts them; ``spread`` gives them back all that this process began with.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from nvdra_core.errors import HostError

ALLOWED = frozenset(os.sched_getaffinity(0))
"""What this process may use: as the administrator, systemd or the container said."""

_TASKS = Path("/proc/self/task")


class CpuTime(msgspec.Struct, frozen=True):
    """Of all threads that live, in seconds."""

    worked_s: float
    waited_s: float
    """Ready to run, while others had the CPU."""


def spread(pid: int) -> None:
    """Let a program that was just started use all CPUs."""
    with contextlib.suppress(OSError):  # it has ended, or we may not: it runs all the same
        os.sched_setaffinity(pid, ALLOWED)


def _move(thread: int, cpu: int) -> None:
    try:
        os.sched_setaffinity(thread, {cpu})
    except ProcessLookupError:
        return  # ended meanwhile
    except OSError as error:
        raise HostError(f"threads cannot be moved to CPU {cpu}: {error.strerror}") from error


class Cpus:
    """The CPUs of this process's threads."""

    def gather(self, cpu: int) -> None:
        """Move all threads to one CPU; later ones inherit it. Raises HostError when that is not allowed."""
        for task in _TASKS.iterdir():
            _move(int(task.name), cpu)

    def time(self) -> CpuTime:
        """What the threads that live have worked and waited so far (kernel: sched/sched-stats)."""
        worked = waited = 0
        for task in _TASKS.iterdir():
            with contextlib.suppress(OSError):  # ended meanwhile
                fields = (task / "schedstat").read_bytes().split()
                worked, waited = worked + int(fields[0]), waited + int(fields[1])
        return CpuTime(worked / 1e9, waited / 1e9)
