"""CPU affinity and run-queue wait of this process's threads. Used by ``app.cpu_pinning``.

Programs inherit the affinity of the thread that starts them; ``spread`` restores the process's initial one.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from nvdra_core.errors import HostError

ALLOWED = frozenset(os.sched_getaffinity(0))
"""The process's initial affinity, set by the administrator, systemd or a container."""

_TASKS = Path("/proc/self/task")


class CpuTime(msgspec.Struct, frozen=True):
    """Sums over all living threads, in seconds."""

    worked_s: float
    waited_s: float
    """Runnable, but not running."""


def spread(pid: int) -> None:
    """Give a just started program the initial affinity."""
    with contextlib.suppress(OSError):  # it has ended, or this is not permitted: it runs anyway
        os.sched_setaffinity(pid, ALLOWED)


def _move(thread: int, cpu: int) -> None:
    try:
        os.sched_setaffinity(thread, {cpu})
    except ProcessLookupError:
        return  # ended meanwhile
    except OSError as error:
        raise HostError(f"threads cannot be pinned to CPU {cpu}: {error.strerror}") from error


class Cpus:
    """The CPUs of this process's threads."""

    def pin(self, cpu: int) -> None:
        """Pin all threads to one CPU; later threads inherit it. Raises HostError if not permitted."""
        for task in _TASKS.iterdir():
            _move(int(task.name), cpu)

    def time(self) -> CpuTime:
        """CPU time and run-queue wait of the living threads (kernel: sched/sched-stats)."""
        worked = waited = 0
        for task in _TASKS.iterdir():
            with contextlib.suppress(OSError):  # ended meanwhile
                fields = (task / "schedstat").read_bytes().split()
                worked, waited = worked + int(fields[0]), waited + int(fields[1])
        return CpuTime(worked / 1e9, waited / 1e9)
