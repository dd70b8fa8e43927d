"""Random restarts of programs while pods are created and deleted. Called by ``test_chaos``.

``plan`` is pure: the same seed gives the same faults. ``Chaos.inject`` injects one fault and returns when the node's
devices are published again.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver.gpu_bed import Bed
from tests.beds.cluster.driver.pods import Identity, Pods, ignoring_outages
from tests.lib.waits import WaitError, wait_until

PROGRAMS = ("service", "kubelet", "containerd", "apiserver")
WIPERS = ("service", "kubelet", "apiserver")
"""Programs after whose start slices may be written again; containerd has nothing to do with them."""

_CONTROL_PLANE = ("scheduler", "controller-manager", "apiserver")
"""Restarted together: the clients wait half a minute before they connect to the API server again, and in that time no
pod could be created or deleted."""

MOST_DOWN_S = 2.0
GIVE_UP_S = 60.0


@dataclass(frozen=True)
class Fault:
    """One restart: of which program, by SIGKILL or orderly, and how long it stays down.

    ``wipe``: the node's slices are deleted as soon as it runs again, as a kubelet does that misses the service.
    """

    program: str
    kill: bool
    wipe: bool
    down_s: float

    def __str__(self) -> str:
        how = "killed" if self.kill else "stopped"
        wiped = ", slices deleted" if self.wipe else ""
        return f"{self.program} {how}, down for {self.down_s:.1f} s{wiped}"


def plan(rounds: int, chance: random.Random) -> list[Fault]:
    """Faults in random order, each kind as often as the others."""
    kinds = list(itertools.product(PROGRAMS, (False, True), (False,)))
    kinds += itertools.product(WIPERS, (False, True), (True,))
    chosen = [kinds[i % len(kinds)] for i in range(rounds)]
    chance.shuffle(chosen)
    return [Fault(*kind, chance.uniform(0, MOST_DOWN_S)) for kind in chosen]


class ShortLivedPods:
    """Short-lived pods with a GPU each; deleted whether they have started or not."""

    def __init__(self, pods: Pods, most: int, chance: random.Random) -> None:
        self._pods = pods
        self._most = most
        self._chance = chance
        self._made = 0
        self.here: list[str] = []
        """Pods that no test has deleted."""

    def change(self) -> None:
        """Create a pod, delete one, or both."""
        if self.here and (len(self.here) >= self._most or self._chance.random() < 0.5):
            self._pods.delete(self.here.pop(self._chance.randrange(len(self.here))))
        if len(self.here) < self._most:
            name = f"short-{self._made}"
            self._made += 1
            self._pods.create(m.pod(self._pods.place, name, templates={"gpu": "gpu"}))
            self.here.append(name)

    def wait_some_running(self, most_s: float) -> str:
        """Wait some time for the present pods to start; the number of those that run."""
        running: list[str] = []

        def all_run() -> bool:
            now = self._pods.identities()
            running[:] = [name for name in self.here if _runs(now.get(name, []))]
            return len(running) == len(self.here)

        with contextlib.suppress(WaitError):
            wait_until("pods run", ignoring_outages(all_run), most_s)
        return f"{len(running)} of {len(self.here)}"


def _runs(containers: list[Identity]) -> bool:
    return any(container.started_at != "not running" for container in containers)


class Chaos:
    """Faults to the only node of a bed and to its API server."""

    def __init__(self, bed: Bed, pods: ShortLivedPods) -> None:
        self._bed = bed
        self._pods = pods

    def inject(self, fault: Fault) -> float:
        """Stop, create and delete pods, start; returns the seconds from then until the slices are back.

        For service and kubelet this includes their registration. The start of the API server does not count.
        """
        node = self._bed.only
        mark = node.log_size()
        self._pods.change()
        self._stop(fault)
        if fault.program != "apiserver":
            self._pods.change()
        time.sleep(fault.down_s)
        self._start(fault.program)
        started = time.monotonic()
        if fault.wipe:
            wait_until("slices deleted", ignoring_outages(self._bed.wipe_slices), GIVE_UP_S)
        needs_kubelet = fault.program in ("service", "kubelet")
        wanted = len(node.sim.profile.gpus)

        def is_back() -> bool:
            if needs_kubelet and "registered by the kubelet" not in node.logged(mark):
                return False
            return len(self._bed.devices(node.name)) == wanted

        wait_until(f"slices back after: {fault}", ignoring_outages(is_back), GIVE_UP_S, 0.05)
        return time.monotonic() - started

    def _stop(self, fault: Fault) -> None:
        if fault.program == "service":
            self._bed.only.stop(kill=fault.kill)
        elif fault.program == "apiserver":
            for component in _CONTROL_PLANE:
                self._bed.cluster.stop(component, kill=fault.kill)
        else:
            self._bed.only.node.stop(fault.program, kill=fault.kill)

    def _start(self, program: str) -> None:
        if program == "service":
            self._bed.only.start()
        elif program == "apiserver":
            for component in reversed(_CONTROL_PLANE):
                self._bed.cluster.start(component)
        else:
            self._bed.only.node.start(program)


def table(times: Iterable[tuple[Fault, float]]) -> str:
    """Seconds until the slices were back: for each program and for all, times, median and worst."""
    times = list(times)
    lines = []
    for what in (*PROGRAMS, "all"):
        found = [seconds for fault, seconds in times if what in (fault.program, "all")]
        if found:
            lines.append(
                f"{what:11} {len(found):4} restarts  p50 {statistics.median(found):5.2f} s"
                f"  max {max(found):5.2f} s"
            )
    return "\n".join(lines)
