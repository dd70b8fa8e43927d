"""What the fake was asked: counts by verb, resource and code, and the last requests. Benchmarks assert on it."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

KEPT = 2000


@dataclass(frozen=True, slots=True)
class Line:
    """One request; ``code`` is 0 when no answer was sent."""

    verb: str
    resource: str
    code: int
    target: str
    user: str
    user_agent: str


class RequestLog:
    """See the module. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str, int]] = Counter()
        self._lines: deque[Line] = deque(maxlen=KEPT)

    def add(self, line: Line) -> None:
        """Record a request when its answer is known."""
        with self._lock:
            self._counts[line.verb, line.resource, line.code] += 1
            self._lines.append(line)

    def count(self, verb: str = "", resource: str = "", code: int | None = None) -> int:
        """How many matching requests there were; empty and None match all."""
        with self._lock:
            return sum(
                number
                for (a_verb, a_resource, a_code), number in self._counts.items()
                if verb in {"", a_verb} and resource in {"", a_resource} and code in {None, a_code}
            )

    def lines(self) -> list[Line]:
        """The last requests, oldest first."""
        with self._lock:
            return list(self._lines)

    def clear(self) -> None:
        """Reset the counts and lines."""
        with self._lock:
            self._counts.clear()
            self._lines.clear()

    def summary(self) -> dict[str, Any]:
        """Counts as JSON: ``{"get resourceclaims 200": 3}``."""
        with self._lock:
            counts = {
                f"{verb} {resource} {code}": number
                for (verb, resource, code), number in sorted(self._counts.items())
            }
        return {"counts": counts, "total": sum(counts.values())}
