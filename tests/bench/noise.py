"""Measures how much others disturbed a benchmark round, so that such rounds are repeated and left out.

Two signs: CPU time that the host of a virtual machine gave to others ("steal" of /proc/stat, proc(5)), and a fixed
loop, timed before and after, which also shows a neighbour on the same core. Linux only; judging is pure.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.plugin import proc

STOLEN_LIMIT = 2.0
"""% of all CPUs that the host may take from a quiet round."""
OTHERS_LIMIT = 0.2
"""Cores that other processes here may keep busy during a quiet round."""
SPIN_LIMIT = 1.25
"""How much longer the loop may take than in the quietest round of the run."""

_SPINS = 9
_SPIN_STEPS = 100_000

Values = Mapping[str, float]
Rounds = Mapping[str, Sequence[Values]]
"""Contender -> the values of each of its rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The signs at one moment."""

    at_s: float
    stolen_s: float
    spin_ms: float

    @staticmethod
    def read() -> Noise:
        """Run the loop and read the clocks; takes about 0.1 s."""
        return Noise(spin_ms=_spin_ms(), at_s=time.monotonic(), stolen_s=proc.stolen_s())

    def until(self, after: Noise) -> dict[str, float]:
        """Return the measures "host_stolen" (%) and "spin" (ms, the slower of the two)."""
        cpus = (after.at_s - self.at_s) * (os.cpu_count() or 1)
        return {
            "host_stolen": 100 * (after.stolen_s - self.stolen_s) / cpus,
            "spin": max(self.spin_ms, after.spin_ms),
        }


def are_quiet(rounds: Sequence[Values], best_spin_ms: float) -> list[bool]:
    """Return for each round whether neither the host nor anybody here disturbed it."""
    return [
        one["host_stolen"] <= STOLEN_LIMIT
        and one["other_load"] <= OTHERS_LIMIT
        and one["spin"] <= SPIN_LIMIT * best_spin_ms
        for one in rounds
    ]


def quiet_rounds(rounds: Rounds) -> dict[str, list[Values]]:
    """Return the quiet rounds of each contender; the quietest round of any is what all are held against."""
    best = min(one["spin"] for taken in rounds.values() for one in taken)
    return {
        name: [one for one, is_quiet in zip(taken, are_quiet(taken, best), strict=True) if is_quiet]
        for name, taken in rounds.items()
    }


def choose(rounds: Rounds, wanted: int) -> tuple[dict[str, list[Values]], str]:
    """Return the rounds that count for each contender, and a line that says which.

    These are the quiet ones if every contender has at least half of those wanted; else all, and the line says so.
    """
    quiet = quiet_rounds(rounds)
    counts = ", ".join(
        f"{name} {len(quiet[name])} of {len(taken)}" for name, taken in rounds.items()
    )
    if min(map(len, quiet.values())) * 2 >= wanted:
        return quiet, f"quiet rounds, which count: {counts}"
    every = {name: list(taken) for name, taken in rounds.items()}
    return every, f"the machine was NOT quiet, so all rounds count: quiet were {counts}"


def _spin_ms() -> float:
    return statistics.median(_once_ms() for _ in range(_SPINS))


def _once_ms() -> float:
    start = time.perf_counter()
    total = 0
    for step in range(_SPIN_STEPS):
        total += step * step
    return (time.perf_counter() - start) * 1e3
