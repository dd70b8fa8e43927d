"""Counts the file syncs and renames of a program and its children while it works, whatever language it is written in.

Uses strace with a seccomp filter, so that only the counted calls are stopped: a program that makes its system calls
itself, as Go's do, is invisible to a preloaded library. Latencies taken meanwhile mean nothing.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

SYNCS = ("fsync", "fdatasync", "sync_file_range", "syncfs", "sync", "msync")
RENAMES = ("rename", "renameat", "renameat2")

_CALL = re.compile(rb"^\d+ +([a-z0-9_]+)\(", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Counts:
    """Calls since the counter's last reading."""

    syncs: int
    renames: int


def is_available() -> bool:
    """Say whether system calls can be counted here."""
    return shutil.which("strace") is not None


class SyscallCounter:
    """Writes to a file which calls were made; `argv` wraps the program's command line."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._seen = 0

    def argv(self, program: list[str]) -> list[str]:
        """Return the command line that runs the program with its calls counted."""
        calls = ",".join([*SYNCS, *RENAMES])
        strace = [
            "strace",
            "-f",
            "--seccomp-bpf",
            "-qq",
            "-e",
            f"trace={calls}",
            "-e",
            "signal=none",
        ]
        return [*strace, "-o", str(self._output), "--", *program]

    def read(self) -> Counts:
        """Return how many calls were begun since the last time."""
        data = self._output.read_bytes()
        names = Counter(match[1].decode() for match in _CALL.finditer(data, self._seen))
        self._seen = data.rfind(b"\n") + 1
        return Counts(sum(names[name] for name in SYNCS), sum(names[name] for name in RENAMES))
