"""One job of a pod on each node, with a ComputeDomain and without, alternating on one cluster; figures are in ``Result``."""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.beds.cluster.driver import audit
from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver.domain_bed import DomainBed
from tests.beds.cluster.driver.trays import BROKER, PLUGIN, SUPERVISOR
from tests.beds.cluster.machine import cgroups
from tests.bench import noise
from tests.bench.domain.timeline import Moments, Watcher
from tests.lib.waits import wait_until

CLUSTER = "domain-bench"
NAME = "train"
SETTLE_S = 2.0
"""How long writes that follow the last pod are counted: status, events."""
TIMEOUT_S = 300.0


@dataclass
class Round:
    """One job."""

    apply_to_running_s: float
    steps: dict[str, dict[str, float]]
    """Seconds after apply, by node and step."""
    writes: Counter[str]
    conflicts: int
    services_cpu_s: float
    """CPU time that our services on all nodes took."""
    machine_cpu_s: float
    """CPU time that the whole machine took, others' programs too."""
    gone_s: float = 0.0
    """From the deletion of the pods to nothing being left of them."""
    signs: dict[str, float] = field(default_factory=dict)
    """Of disturbance by others: "host_stolen", "spin" (``tests.bench.noise``)."""

    def span(self, first: str, last: str) -> float:
        """Seconds from the first node's one step to the last node's other."""
        begins = [found[first] for found in self.steps.values() if first in found]
        ends = [found[last] for found in self.steps.values() if last in found]
        return max(ends) - min(begins) if begins and ends else 0.0

    def slowest(self) -> str:
        """The node whose prepare took longest, with the moments of its steps; empty without a domain."""
        nodes = {n: s for n, s in self.steps.items() if "asked" in s and "prepared" in s}
        if not nodes:
            return ""
        node = max(nodes, key=lambda name: nodes[name]["prepared"] - nodes[name]["asked"])
        return node + "".join(f", {step} {at_s:.2f}" for step, at_s in nodes[node].items())

    def prepares(self) -> list[float]:
        """Seconds of each node's prepare, from the claim's coming to the supervisor to the kubelet's answer."""
        return [
            found["prepared"] - found["asked"]
            for found in self.steps.values()
            if "asked" in found and "prepared" in found
        ]


@dataclass
class Result:
    """All rounds on a number of nodes."""

    nodes: int
    kubernetes: str
    isolation: str = "domain"
    plain: list[Round] = field(default_factory=list)
    domain: list[Round] = field(default_factory=list)
    noise_note: str = ""
    """Which rounds these are, of those taken."""

    @property
    def ratio(self) -> float:
        """Median of the rounds' ratios: apply to the last pod Running, with a domain and without."""
        pairs = zip(self.domain, self.plain, strict=True)
        return statistics.median(d.apply_to_running_s / p.apply_to_running_s for d, p in pairs)

    @property
    def writes_per_node(self) -> float:
        """Median of API writes more than plain pods have, for each node."""
        more = [
            d.writes.total() - p.writes.total()
            for d, p in zip(self.domain, self.plain, strict=True)
        ]
        return statistics.median(more) / self.nodes

    @property
    def own_writes_per_node(self) -> float:
        """Median of the writes of nvdra's own programs for each node; the rest is what Kubernetes does for a claim."""
        own = [
            sum(n for kind, n in one.writes.items() if kind.endswith("(nvdra)"))
            for one in self.domain
        ]
        return statistics.median(own) / self.nodes

    @property
    def conflicts(self) -> int:
        """Conflicts of all rounds with a domain, of any program."""
        return sum(one.conflicts for one in self.domain)

    def extra_writes(self) -> dict[str, float]:
        """Writes for each node that the last round with a domain had more, by kind; largest first."""
        more = Counter(self.domain[-1].writes)
        more.subtract(self.plain[-1].writes)
        return {kind: n / self.nodes for kind, n in more.most_common() if n}

    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "nodes": self.nodes,
            "kubernetes": self.kubernetes,
            "isolation": self.isolation,
            "imex": "made up: READY as soon as it runs",
            "noise_note": self.noise_note,
            "applyToLastRunningSeconds": {
                "plain": [round(one.apply_to_running_s, 3) for one in self.plain],
                "domain": [round(one.apply_to_running_s, 3) for one in self.domain],
            },
            "ratio": round(self.ratio, 3),
            "firstPrepareToLastReleaseSeconds": [
                round(one.span("asked", "prepared"), 3) for one in self.domain
            ],
            "prepareSeconds": [round(taken, 3) for one in self.domain for taken in one.prepares()],
            "writesPerNodeMoreThanPlain": round(self.writes_per_node, 2),
            "ownWritesPerNode": round(self.own_writes_per_node, 2),
            "extraWritesPerNode": {k: round(v, 2) for k, v in self.extra_writes().items()},
            "conflicts": self.conflicts,
            "servicesCpuSeconds": [round(one.services_cpu_s, 2) for one in self.domain],
            "machineCpuSeconds": {
                "plain": [round(one.machine_cpu_s, 1) for one in self.plain],
                "domain": [round(one.machine_cpu_s, 1) for one in self.domain],
            },
            "timeline": self.domain[-1].steps,
        }


def run(
    nodes: int, rounds: int, kubernetes: str, isolation: str, patience_s: float = 0.0
) -> Result:
    """Measure on a cluster of its own, removed afterwards. The first round of each kind only warms up.

    Rounds that others disturbed are repeated for ``patience_s`` at most, and left out.
    """
    bed = DomainBed.up(
        CLUSTER, nodes, kubernetes=kubernetes, settings={"imexLingerSeconds": 0}, audit=True,
        is_instant=True, values={"resources": {"computeDomains": {"imex": {"isolation": isolation}}}},
    )  # fmt: skip
    pairs: list[dict[str, Round]] = []
    with bed, bed.namespace("team") as place:
        _pair(bed, place, "to warm up", is_turned=False)
        ends_s = time.monotonic() + patience_s
        while len(pairs) < rounds or (_quiet(pairs) < rounds and time.monotonic() < ends_s):
            title = f"round {len(pairs) + 1} of {rounds}"
            if len(pairs) >= rounds:
                title += f", {_quiet(pairs)} quiet so far"
            pairs.append(_pair(bed, place, title, is_turned=bool(len(pairs) % 2)))
    chosen, noise_note = noise.choose({"pairs": _signs(pairs)}, rounds)
    counted = [pairs[int(signs["number"])] for signs in chosen["pairs"]]
    return Result(
        nodes, kubernetes, isolation, [pair[""] for pair in counted],
        [pair[NAME] for pair in counted], noise_note,
    )  # fmt: skip


def _pair(bed: DomainBed, place: str, title: str, *, is_turned: bool) -> dict[str, Round]:
    """One job of each kind, by its domain's name; every second time in the other order, so that drift hits both."""
    found = {}
    for domain in (NAME, "") if is_turned else ("", NAME):
        before = noise.Noise.read()
        found[domain] = one = _job(bed, place, domain)
        one.signs = before.until(noise.Noise.read())
        kind = "with a domain" if domain else "plain"
        _say(f"{title}, {kind}: {one.apply_to_running_s:.2f} s")
        if slowest := one.slowest():
            _say(f"  slowest prepare: {slowest}")
    return found


def _signs(pairs: list[dict[str, Round]]) -> list[dict[str, float]]:
    """What tells of disturbance, for each pair, with its number."""
    return [
        {
            "number": float(number),
            "other_load": 0.0,
            **{
                key: max(one.signs[key] for one in pair.values()) for key in ("host_stolen", "spin")
            },
        }
        for number, pair in enumerate(pairs)
    ]


def _quiet(pairs: list[dict[str, Round]]) -> int:
    return len(noise.quiet_rounds({"pairs": _signs(pairs)})["pairs"]) if pairs else 0


def _job(bed: DomainBed, place: str, domain: str) -> Round:
    count = len(bed.trays)
    manifests = [m.worker(place, f"worker-{i}", domain) for i in range(count)]
    if domain:
        manifests.insert(0, m.domain(place, domain, nodes=count))
    with Watcher(bed.cluster, place) as moments:
        cpu_s, machine_s, started_s = _services_cpu_s(bed), _machine_cpu_s(), time.time()
        bed.apply(*manifests)
        _wait_running(moments, count)
        took_s, machine_s = time.time() - started_s, _machine_cpu_s() - machine_s
        if domain:
            wait_until("Ready", lambda: _is_ready(bed, place, domain), TIMEOUT_S)
        time.sleep(SETTLE_S)
        cpu_s, ended_s = _services_cpu_s(bed) - cpu_s, time.time()
    for tray in bed.trays.values():
        moments.of_logs(tray, started_s)
    found = audit.writes(bed.cluster.layout.audit_log, started_s, ended_s)
    one = Round(
        took_s,
        moments.steps(started_s),
        audit.by_kind(found),
        audit.conflicts(found),
        cpu_s,
        machine_s,
    )
    one.gone_s = _remove(bed, place)
    return one


def _wait_running(moments: Moments, count: int) -> None:
    with moments.changed:
        if not moments.changed.wait_for(lambda: len(moments.running) == count, TIMEOUT_S):
            raise TimeoutError(f"{len(moments.running)} of {count} pods run after {TIMEOUT_S:g} s")


def _is_ready(bed: DomainBed, place: str, name: str) -> bool:
    found = bed.domain(place, name) or {}
    return bool(found.get("status", {}).get("status") == "Ready")


def _remove(bed: DomainBed, place: str) -> float:
    """Delete pods and domain and wait until nothing is left; seconds until then."""
    started = time.monotonic()
    for kind in ("pods", "computedomains"):
        limit = f"--timeout={TIMEOUT_S:g}s"
        bed.cluster.kubectl("delete", kind, "-n", place, "--all", limit, timeout_s=TIMEOUT_S)
    bed.wait_clean(TIMEOUT_S)
    took_s = time.monotonic() - started
    time.sleep(SETTLE_S)
    return took_s


def _services_cpu_s(bed: DomainBed) -> float:
    """CPU time of plugin, supervisor and unit broker on all nodes so far, with what they called."""
    root = next(path for path in cgroups.hierarchies() if (path / "cpuacct.usage").exists())
    places = [
        root / bed.cluster.layout.node_cgroup(node) / "programs" / service / "cpuacct.usage"
        for node in bed.trays
        for service in (PLUGIN, SUPERVISOR, BROKER)
    ]
    return sum(int(place.read_text()) for place in places) / 1e9


def _machine_cpu_s() -> float:
    user, nice, system, _, _, irq, softirq = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / 100


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
