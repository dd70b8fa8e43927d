"""Cgroups of a cluster, the same path in every hierarchy of cgroup v1 (and the unified one beside them).

They are how a cluster is removed for certain: each process that it starts joins before it runs, what that process
starts inherits it, and the kubelet puts its pods below. So killing what is in the cgroup ends everything.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from tests.beds.cluster.errors import ClusterError
from tests.lib.waits import WaitError, wait_until

ROOT = Path("/sys/fs/cgroup")

_JOIN = 'while [ "$1" != -- ]; do echo $$ > "$1"; shift; done; shift; exec "$@"'


def hierarchies() -> list[Path]:
    """Return the mount point of each hierarchy, each once."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = {Path(fields[1]) for fields in mounts if fields[2] in ("cgroup", "cgroup2")}
    return sorted(path for path in found if path.is_relative_to(ROOT) and not path.is_symlink())


def create(path: str) -> None:
    """Make a cgroup and its parents in every hierarchy, ready for processes to join."""
    for root in hierarchies():
        parent = root
        for part in Path(path).parts:
            child = parent / part
            child.mkdir(exist_ok=True)
            # A new cpuset is empty, and refuses processes until it has what its parent has.
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (child / file).exists() and not (child / file).read_text().strip():
                    (child / file).write_text((parent / file).read_text())
            parent = child


def joined(path: str, argv: list[str]) -> list[str]:
    """Return a command line that joins the cgroup in every hierarchy and then is `argv`, with the same pid."""
    files = [str(root / path / "cgroup.procs") for root in hierarchies()]
    return ["/bin/sh", "-c", _JOIN, "join", *files, "--", *argv]


def processes(path: str) -> set[int]:
    """Return the pids of all live processes in the cgroup and below it."""
    found: set[int] = set()
    for root in hierarchies():
        for directory, _, _ in os.walk(root / path):
            with contextlib.suppress(OSError):  # the cgroup went away between the two calls
                found.update(
                    int(pid) for pid in Path(directory, "cgroup.procs").read_text().split()
                )
    return found - {0}


def end_processes(path: str, timeout_s: float = 20) -> None:
    """Kill every process in the cgroup and below, until none is left."""

    def is_empty() -> bool:
        pids = processes(path)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    wait_until(f"cgroup {path} is empty", is_empty, timeout_s=timeout_s, interval_s=0.02)


def remove(path: str, timeout_s: float = 10) -> None:
    """Remove the cgroup, which holds no process any more, and all below it, from every hierarchy."""

    def is_gone() -> bool:
        for root in hierarchies():
            for directory, _, _ in os.walk(root / path, topdown=False):
                with contextlib.suppress(OSError):  # busy while the last process is on its way out
                    Path(directory).rmdir()
        return not exists(path)

    try:
        wait_until(f"cgroup {path} is gone", is_gone, timeout_s=timeout_s)
    except WaitError as error:
        left = [str(root / path) for root in hierarchies() if (root / path).exists()]
        raise ClusterError(f"{error}: left {left}") from error


def exists(path: str) -> bool:
    """Say whether any hierarchy still has the cgroup."""
    return any((root / path).exists() for root in hierarchies())
