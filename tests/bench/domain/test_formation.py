"""What the formation bench makes of its runs: the table, and how time grows from the smallest to the largest."""

from __future__ import annotations

from typing import Any

from tests.bench.domain import formation


def run_of(agents: int, seconds: float, **more: Any) -> dict[str, Any]:
    return {
        "agents": agents, "templateSeconds": 0.1, "firstPrepareToLastReleaseSeconds": seconds,
        "lastAllocationToLastReleaseSeconds": seconds / 2, "domainReadySeconds": seconds + 1,
        "cpuSeconds": {"agents": 0.3}, "writesPerNode": 5.6, "conflicts": 0, "refused": 0,
        "prepareSeconds": {"p50": 0.5, "p99": 0.9}, "requests": {"get resourceclaims 200": agents},
    } | more  # fmt: skip


def test_growth_compares_smallest_with_largest_in_any_order() -> None:
    assert formation.growth([run_of(1008, 6.0), run_of(18, 2.0), run_of(144, 9.0)]) == 3.0


def test_table_has_a_column_per_run_and_a_row_per_request_kind() -> None:
    refused = run_of(144, 3.0, requests={"patch resourceclaims/status 422": 7})
    table = formation.text([run_of(18, 2.0), refused])
    lines = {line[:38].strip(): line[38:].split() for line in table.splitlines()}
    assert lines["agents"] == ["18", "144"]
    assert lines["one prepare, p99"] == ["0.90", "0.90"]
    assert lines["get resourceclaims 200"] == ["18", "0"]
    assert lines["patch resourceclaims/status 422"] == ["0", "7"]
    assert "time grows 1.50 times (goal: 2)" in table


def test_single_run_has_no_growth() -> None:
    assert "grows" not in formation.text([run_of(18, 2.0)])
