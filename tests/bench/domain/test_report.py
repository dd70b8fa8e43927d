"""What the bench makes of what it saw: the audit log's writes, moments of watches and logs, the table, goals missed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.beds.cluster.driver import audit
from tests.bench.domain import bench, report
from tests.bench.domain.bench import Result, Round
from tests.bench.domain.timeline import Moments

SINCE_S = 1_795_000_000.0


def entry(at: str, verb: str, resource: str, **more: Any) -> str:
    """One line of an audit log."""
    name, _, subresource = resource.partition("/")
    event = {
        "stage": "ResponseComplete", "verb": verb, "requestReceivedTimestamp": at,
        "objectRef": {"resource": name, "subresource": subresource},
        "user": {"username": "u"}, "userAgent": "nvdra/0.1.0 (x)",
        "responseStatus": {"code": 200},
    }  # fmt: skip
    return json.dumps(event | more) + "\n"


def test_writes_in_span_count_without_heartbeats(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text(
        entry("2026-11-18T10:00:00.500000Z", "create", "pods")
        + entry("2026-11-18T10:00:01.000000Z", "get", "pods")
        + entry("2026-11-18T10:00:01.250000Z", "patch", "fabricnodes/status")
        + entry("2026-11-18T10:00:01.300000Z", "update", "leases")
        + entry("2026-11-18T10:00:01.400000Z", "update", "pods", responseStatus={"code": 409})
        + entry("2026-11-18T10:00:01.500000Z", "patch", "pods", stage="RequestReceived")
        + entry("2026-11-18T10:00:09.000000Z", "delete", "pods")
        + '{"half'
    )
    second = audit._seconds("2026-11-18T10:00:01.000000Z")
    found = audit.writes(log, second, second + 1)
    assert audit.by_kind(found) == {"patch fabricnodes/status (nvdra)": 1, "update pods (nvdra)": 1}
    assert audit.conflicts(found) == 1


def test_step_time_is_its_first_observation() -> None:
    moments = Moments()
    pod = {"metadata": {"name": "w"}, "spec": {}, "status": {"phase": "Pending"}}
    moments.pod(pod, SINCE_S)
    assert not moments.seen
    moments.pod({**pod, "spec": {"nodeName": "n"}}, SINCE_S + 1)
    running = {**pod, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}}
    moments.pod(running, SINCE_S + 2)
    moments.pod(running, SINCE_S + 3)
    result = {"driver": "compute-domain.nvidia.com", "pool": "n"}
    moments.claim({"status": {"allocation": {"devices": {"results": [result]}}}}, SINCE_S + 1.5)
    moments.claim({"status": {}}, SINCE_S + 1.6)
    fabric_node = {
        "metadata": {"name": "n"},
        "spec": {"domains": [{}]},
        "status": {"domains": [{"ready": True}]},
    }
    moments.fabric_node(fabric_node, SINCE_S + 1.75)
    assert moments.running == {"w"}
    assert moments.steps(SINCE_S) == {
        "n": {"scheduled": 1.0, "running": 2.0, "allocated": 1.5, "assigned": 1.75, "ready": 1.75}
    }


def a_round(took_s: float, **writes: int) -> Round:
    steps = {"n": {"scheduled": 0.5, "asked": 1.0, "prepared": 1.25, "running": took_s}}
    return Round(took_s, steps, Counter(writes), 0, 0.1, 1.0)


def test_figures_are_compared_with_goals_per_round() -> None:
    result = Result(2, "1.36")
    result.plain = [a_round(4.0, pods=10), a_round(8.0, pods=10)]
    result.domain = [a_round(4.8, pods=14, claims=4), a_round(8.8, pods=14, claims=4)]
    assert round(result.ratio, 3) == 1.15
    assert result.writes_per_node == 4.0
    assert report.misses(result) == []
    shown = report.text(result)
    assert "n                0.50          -       1.00" in shown
    assert "1.15" in shown and "MISSED" not in shown
    result.domain[1].conflicts = 2
    assert report.misses(result) == ["conflicts: 2.00, goal 0"]
    assert result.document()["firstPrepareToLastReleaseSeconds"] == [0.25, 0.25]


def test_pair_is_quiet_when_both_jobs_are() -> None:
    quiet, slow = {"host_stolen": 0.5, "spin": 6.0}, {"host_stolen": 0.5, "spin": 9.0}
    pairs = []
    for plain, domain in ((quiet, quiet), (quiet, slow), (slow, quiet)):
        pair = {"": a_round(4.0), bench.NAME: a_round(5.0)}
        pair[""].signs, pair[bench.NAME].signs = plain, domain
        pairs.append(pair)
    assert bench._quiet(pairs) == 1
    assert [signs["number"] for signs in bench._signs(pairs)] == [0, 1, 2]
