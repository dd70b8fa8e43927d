"""A bench's result as text: the timeline of each node, then the figures beside their goals. Pure."""

from __future__ import annotations

import statistics

from tests.bench.domain.bench import Result
from tests.bench.domain.timeline import STEPS

GOALS = {"ratio": 1.3, "writes": 6.0, "conflicts": 0.0}


def text(result: Result) -> str:
    """All of it, for people."""
    return "\n".join([timeline(result), "", figures(result)])


def timeline(result: Result) -> str:
    """One line for each node of the last round: seconds after apply of each step."""
    lines = [f"{'node':<10}" + "".join(f"{step:>11}" for step in STEPS)]
    for node, found in result.domain[-1].steps.items():
        values = "".join(
            f"{found[step]:>11.2f}" if step in found else f"{'-':>11}" for step in STEPS
        )
        lines.append(f"{node:<10}{values}")
    return "\n".join(lines)


def figures(result: Result) -> str:
    """The table."""
    plain = [one.apply_to_running_s for one in result.plain]
    domain = [one.apply_to_running_s for one in result.domain]
    prepare = [one.span("asked", "prepared") for one in result.domain]
    asking = [one.span("asked", "asked") for one in result.domain]
    each = [taken for one in result.domain for taken in one.prepares()]
    cpu = [one.services_cpu_s / result.nodes * 1000 for one in result.domain]
    rows = [
        ("apply to last Running, plain pods", _spread(plain, "s"), ""),
        ("apply to last Running, ComputeDomain", _spread(domain, "s"), ""),
        ("ratio", f"{result.ratio:.2f}", _goal(result.ratio, "ratio")),
        ("first prepare to last release", _spread(prepare, "s"), ""),
        ("  of it until the last kubelet asked", _spread(asking, "s"), ""),
        ("one prepare, of all nodes and rounds", _spread(each, "s"), ""),
        ("deletion to nothing left", _spread([one.gone_s for one in result.domain], "s"), ""),
        ("CPU of our services, for each node", _spread(cpu, "ms"), ""),
        ("API writes for each node, more than plain", f"{result.writes_per_node:.1f}",
         _goal(result.writes_per_node, "writes")),
        ("  of them by nvdra", f"{result.own_writes_per_node:.1f}", ""),
        ("conflicts", f"{result.conflicts}", _goal(result.conflicts, "conflicts")),
    ]  # fmt: skip
    lines = [f"{name:<46}{value:<28}{goal}" for name, value, goal in rows]
    lines += [f"  {number:>6.2f}  {kind}" for kind, number in result.extra_writes().items()]
    head = (
        f"{result.nodes} nodes, Kubernetes {result.kubernetes}, isolation {result.isolation}, {len(domain)} rounds;"
        " nvidia-imex is made up"
    )
    return "\n".join([head, result.noise_note, *lines])


def misses(result: Result) -> list[str]:
    """Goals that were missed."""
    found = {
        "ratio": result.ratio,
        "writes": result.writes_per_node,
        "conflicts": float(result.conflicts),
    }
    return [
        f"{name}: {found[name]:.2f}, goal {GOALS[name]:g}"
        for name in GOALS
        if found[name] > GOALS[name]
    ]


def _goal(value: float, name: str) -> str:
    limit = GOALS[name]
    return f"goal at most {limit:g}: {'met' if value <= limit else 'MISSED'}"


def _spread(values: list[float], unit: str) -> str:
    if not values:
        return "not seen"
    middle = statistics.median(values)
    return f"{middle:.2f} {unit} ({min(values):.2f}..{max(values):.2f})"
