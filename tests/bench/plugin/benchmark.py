"""Plugins side by side: rounds in alternating order, then one counting run each."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench import machine, measures, noise
from tests.bench.plugin import loadclient, rounds, syscounts
from tests.bench.plugin.contender import Contender
from tests.bench.plugin.rounds import Bench, Effort
from tests.bench.report import Report

MOST_ROUNDS = 500


def compare(
    contenders: Sequence[Contender],
    *,
    number: int,
    effort: Effort,
    work: Path,
    patience_s: float = 0.0,
) -> Report:
    """Measure every contender in `number` interleaved quiet rounds; the first is the one that is judged.

    Rounds that others disturbed are repeated and left out: at most as many again, or as often as `patience_s` allows.
    """
    work.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(dir=work, prefix="b-"))
    bench = Bench(
        work=base, loadgen=loadclient.build(), effort=effort, programs=machine.cdi_programs()
    )
    try:
        taken = _rounds(bench, contenders, number, patience_s)
        counted, noise_note = noise.choose(taken, number)
        notes = [f"median (min..max); {_disk(base)}", noise_note]
        results: dict[str, dict[str, list[float]]] = {one.name: {} for one in contenders}
        for name, of_one in counted.items():
            for values in of_one:
                _collect(results[name], values)
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


def _rounds(
    bench: Bench, contenders: Sequence[Contender], number: int, patience_s: float
) -> dict[str, list[Mapping[str, float]]]:
    """Return the values of all rounds: `number`, and more while too few of them were quiet."""
    taken: dict[str, list[Mapping[str, float]]] = {one.name: [] for one in contenders}
    ends_s = time.monotonic() + patience_s
    for index, order in enumerate(alternating(contenders, MOST_ROUNDS)):
        quiet = min(map(len, noise.quiet_rounds(taken).values())) if index >= number else 0
        is_patient = index < 2 * number or time.monotonic() < ends_s
        if quiet >= number or not is_patient:
            break
        for one in order:
            again = f", {quiet} quiet so far" if index >= number else ""
            _say(f"round {index + 1} of {number}{again}: {one.name}")
            place = bench.work / f"{index}-{contenders.index(one)}"
            taken[one.name].append(rounds.measure(bench, one, place))
            shutil.rmtree(place, ignore_errors=True)
    return taken


def alternating(contenders: Sequence[Contender], number: int) -> list[list[Contender]]:
    """Return the order of each round: every second one backwards, so that drift of the machine hits all alike."""
    forwards = list(contenders)
    return [forwards[::-1] if index % 2 else forwards for index in range(number)]


def _collect(into: dict[str, list[float]], values: Mapping[str, float]) -> None:
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
