"""Plugins side by side: rounds in alternating order, then one counting run each."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench import loadclient, machine, measures, rounds, syscounts
from tests.bench.contender import Contender
from tests.bench.report import Report
from tests.bench.rounds import Bench, Effort


def compare(contenders: Sequence[Contender], *, number: int, effort: Effort, work: Path) -> Report:
    """Measure every contender in `number` interleaved rounds; the first is the one that is judged."""
    work.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, list[float]]] = {one.name: {} for one in contenders}
    base = Path(tempfile.mkdtemp(dir=work, prefix="b-"))
    bench = Bench(
        work=base, loadgen=loadclient.build(), effort=effort, programs=machine.cdi_programs()
    )
    try:
        for index, order in enumerate(alternating(contenders, number)):
            for one in order:
                _say(f"round {index + 1} of {number}: {one.name}")
                values = rounds.measure(bench, one, base / f"{index}-{contenders.index(one)}")
                _collect(results[one.name], values)
        notes = [f"{number} rounds, median (min..max); {_disk(base)}"]
        if syscounts.is_available():
            for one in contenders:
                _say(f"counting file syncs: {one.name}")
                values = rounds.count_calls(bench, one, base / f"c-{contenders.index(one)}")
                _collect(results[one.name], values)
        else:
            notes.append("file syncs not counted: strace is not installed")
    except BaseException:
        _say(f"left for looking at: {base}")
        raise
    shutil.rmtree(base)
    return Report(title="plugin", measures=measures.PLUGIN, results=results, notes=notes)


def alternating(contenders: Sequence[Contender], number: int) -> list[list[Contender]]:
    """Return the order of each round: every second one backwards, so that drift of the machine hits all alike."""
    forwards = list(contenders)
    return [forwards[::-1] if index % 2 else forwards for index in range(number)]


def _collect(into: dict[str, list[float]], values: dict[str, float]) -> None:
    for key, value in values.items():
        into.setdefault(key, []).append(value)


def _disk(path: Path) -> str:
    """Return which file system the plugins wrote to: on tmpfs a sync costs nothing."""
    best = ("", "?")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if path.is_relative_to(where) and len(where) >= len(best[0]):
            best = (where, kind)
    return f"state on {best[1]}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
