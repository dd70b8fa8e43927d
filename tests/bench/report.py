"""Tables for eyes and JSON for scripts, from what the rounds measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.measures import UPSTREAM, Measure
from tests.bench.stats import Spread, spread

Samples = Mapping[str, Sequence[float]]
"""Measure key -> one value a round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One benchmark: what each contender reached. Goals are those of the first contender."""

    title: str
    measures: Sequence[Measure]
    results: Mapping[str, Samples]
    """Contender -> its samples; the first is judged, the others are what it is compared with."""
    notes: Sequence[str] = field(default=())

    def spreads(self, contender: str) -> dict[str, Spread]:
        """Return median and range of each measure that was taken, in table order."""
        samples = self.results[contender]
        return {m.key: spread(samples[m.key]) for m in self.measures if samples.get(m.key)}

    def misses(self) -> list[Measure]:
        """Return the measures whose goal the first contender does not reach."""
        first = self.spreads(next(iter(self.results)))
        rows = [m for m in self.measures if m.key in first]
        return [m for m in rows if m.is_met(first[m.key].median, self.upstream(m.key)) is False]

    def upstream(self, key: str) -> float | None:
        """Upstream's median of a measure; None when it was not measured."""
        samples = self.results.get(UPSTREAM, {}).get(key)
        return spread(samples).median if samples else None


def table(report: Report) -> str:
    """Return the report as text: one row a measure, medians with their range, ratios to the others, goals."""
    contenders = list(report.results)
    first = contenders[0]
    spreads = {name: report.spreads(name) for name in contenders}
    header = ["", *contenders, *(f"{first}/{name}" for name in contenders[1:]), "goal", ""]
    rows = [header]
    for measure in report.measures:
        if not any(measure.key in spreads[name] for name in contenders):
            continue
        row = [f"{measure.label} ({measure.unit})" if measure.unit else measure.label]
        row += [_cell(measure, spreads[name].get(measure.key)) for name in contenders]
        row += [_ratio_text(spreads, measure.key, first, name) for name in contenders[1:]]
        rows.append(row + _goal_cells(report, measure, spreads[first].get(measure.key)))
    lines = [report.title, *_align(rows), *report.notes]
    return "\n".join(lines)


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON values: goals, and per contender medians, ranges, rounds and ratios."""
    first = next(iter(report.results))
    spreads = {name: report.spreads(name) for name in report.results}
    rows = {}
    for measure in report.measures:
        taken = {name: s[measure.key] for name, s in spreads.items() if measure.key in s}
        if not taken:
            continue
        judged = taken.get(first)
        rows[measure.key] = {
            "label": measure.label,
            "unit": measure.unit,
            "higherIsBetter": measure.higher_is_better,
            "goal": measure.goal,
            "share": measure.share,
            "ok": measure.is_met(judged.median, report.upstream(measure.key)) if judged else None,
            "contenders": {
                name: {
                    "median": value.median,
                    "min": value.low,
                    "max": value.high,
                    "rounds": list(report.results[name][measure.key]),
                    "ratio": ratio(judged, value) if name != first else None,
                }
                for name, value in taken.items()
            },
        }
    return {"title": report.title, "first": first, "measures": rows, "notes": list(report.notes)}


def ratio(first: Spread | None, other: Spread | None) -> float | None:
    """Return the first one's median as a share of the other's; None where there is nothing to divide (by)."""
    if first is None or other is None or not other.median:
        return None
    return first.median / other.median


def _cell(measure: Measure, value: Spread | None) -> str:
    if value is None:
        return "-"
    text = f"{value.median:.{measure.digits}f}"
    if value.low == value.high:
        return text
    return f"{text} ({value.low:.{measure.digits}f}..{value.high:.{measure.digits}f})"


def _ratio_text(
    spreads: Mapping[str, Mapping[str, Spread]], key: str, first: str, other: str
) -> str:
    value = ratio(spreads[first].get(key), spreads[other].get(key))
    return "" if value is None else f"{value:.3g}x"


def _goal_cells(report: Report, measure: Measure, value: Spread | None) -> list[str]:
    if not measure.limits:
        return ["", ""]
    met = None if value is None else measure.is_met(value.median, report.upstream(measure.key))
    return [measure.limits, {True: "ok", False: "MISS", None: "?"}[met]]


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines
