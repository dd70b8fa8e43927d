"""Memory, CPU and written bytes of a process and all its descendants, read from /proc. Linux only.

Figures of a process that ends while it is read count as nothing; a missing root process is a `BenchError`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

from tests.bench.errors import BenchError

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

_PRESENT = 1 << 63
_FRAME = (1 << 55) - 1
_VANISHED = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What processes hold, in bytes."""

    rss: int
    pss: int
    anonymous: int


def tree(pid: int, root: Path = Path("/proc")) -> list[int]:
    """Return the process and all its descendants, the process itself first."""
    children: dict[int, list[int]] = {}
    for path in root.iterdir():
        if path.name.isdigit() and (fields := _stat(path)):
            children.setdefault(int(fields[1]), []).append(int(path.name))
    if not (root / str(pid)).exists():
        raise BenchError(f"process {pid} has ended")
    found = [pid]
    for one in found:
        found += sorted(children.get(one, []))
    return found


def memory(pids: Iterable[int], root: Path = Path("/proc")) -> Memory:
    """Return the sums of smaps_rollup over some processes."""
    sums = dict.fromkeys(("Rss", "Pss", "Anonymous"), 0)
    for pid in pids:
        try:
            text = (root / str(pid) / "smaps_rollup").read_text()
        except _VANISHED:
            continue
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name in sums:
                sums[name] += int(value.split()[0]) * 1024
    return Memory(rss=sums["Rss"], pss=sums["Pss"], anonymous=sums["Anonymous"])


def cpu_s(pids: Iterable[int], root: Path = Path("/proc")) -> float:
    """Return the CPU seconds used by some processes and by those of their children that have ended."""
    ticks = 0
    for pid in pids:
        fields = _stat(root / str(pid))
        ticks += sum(int(text) for text in fields[11:15])
    return ticks / TICKS_PER_S


def written_bytes(pids: Iterable[int], root: Path = Path("/proc")) -> int:
    """Return the bytes that some processes caused to be written to block devices."""
    total = 0
    for pid in pids:
        try:
            text = (root / str(pid) / "io").read_text()
        except _VANISHED:
            continue
        fields = dict(line.split(": ") for line in text.splitlines())
        total += int(fields["write_bytes"])
    return total


def different_pages(pids: Iterable[int]) -> int | None:
    """Return the bytes of physical memory that some processes hold together, each page counted once.

    This is what they would cost on a machine where no other process maps the same files; PSS gives part of those pages to
    the benchmark's own Python processes. None without the privilege to see page frames.
    """
    try:
        frames = set[int]().union(*map(_frames, pids))
    except PermissionError:
        return None
    return len(frames - {0}) * PAGE or None


def busy_s() -> float:
    """Return the CPU seconds that the whole machine has worked since it started."""
    fields = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def stolen_s() -> float:
    """Return the CPU seconds that the host has given to others while this machine had work for them."""
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8]) / TICKS_PER_S


def _stat(process: Path) -> list[str]:
    """Return the fields of stat that follow the command name (which may contain anything); [] when it has ended."""
    try:
        text = (process / "stat").read_text()
    except _VANISHED:
        return []
    return text.rpartition(")")[2].split()


def _frames(pid: int) -> set[int]:
    """Return the numbers of the page frames of a process; none when it has ended."""
    found: set[int] = set()
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
        with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
            for line in maps.splitlines():
                if not line.endswith("[vsyscall]"):
                    found |= _frames_between(pagemap, *line.split(" ", 1)[0].split("-"))
    except _VANISHED:
        return set()
    return found


def _frames_between(pagemap: RawIOBase, first: str, last: str) -> set[int]:
    """Return the frames of one mapping, given as hexadecimal addresses; pagemap has 8 bytes for each page."""
    start, end = int(first, 16) // PAGE, int(last, 16) // PAGE
    pagemap.seek(start * 8)
    data = pagemap.read((end - start) * 8) or b""
    entries = struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8])
    return {entry & _FRAME for entry in entries if entry & _PRESENT}
