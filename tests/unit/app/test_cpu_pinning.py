"""Pinning of a service's threads, and leaving a crowded CPU."""

from __future__ import annotations

import pytest

from nvdra_core.errors import HostError
from nvdra_core.runtime.clock import Deadline
from nvdra_core.runtime.workers import Workers
from nvdra_node.app.cpu_pinning import CHECK_S, CpuPinner, is_crowded
from nvdra_node.host.cpus import CpuTime
from tests.fakes.clock import FakeClock


class FakeThreads:
    """Threads that wait ``crowd_s`` between two checks until they were moved ``moves`` times."""

    def __init__(self, workers: Workers, *, crowd_s: float = 0.0, moves: int = 1) -> None:
        self.workers = workers
        self.crowd_s = crowd_s
        self.moves = moves
        self.cpus: list[int] = []
        self.checks = 0

    def pin(self, cpu: int) -> None:
        self.cpus.append(cpu)

    def time(self) -> CpuTime:
        self.checks += 1
        if self.checks > 5:
            self.workers.stopping.set()
        crowded = self.crowd_s if len(self.cpus) < self.moves else 0.0
        return CpuTime(0.01 * self.checks, crowded * self.checks)


class ForbiddenThreads(FakeThreads):
    """Threads that may not be moved."""

    def pin(self, cpu: int) -> None:
        raise HostError(f"threads cannot be pinned to CPU {cpu}: Operation not permitted")


def run(threads: FakeThreads, allowed: list[int]) -> CpuPinner:
    clock = FakeClock()
    pinner = CpuPinner(threads, clock, threads.workers, allowed)
    pinner.start()
    assert threads.workers.join(Deadline(20, clock)) == []
    assert threads.workers.failure is None
    return pinner


@pytest.fixture
def workers() -> Workers:
    return Workers(FakeClock())


def test_threads_are_pinned_once_on_an_idle_cpu(workers: Workers) -> None:
    threads = FakeThreads(workers)
    pinner = run(threads, [2, 3])
    assert threads.cpus == [pinner.cpu]
    assert pinner.cpu in {2, 3}


def test_threads_leave_a_crowded_cpu(workers: Workers) -> None:
    threads = FakeThreads(workers, crowd_s=CHECK_S, moves=3)
    run(threads, [2, 3])
    assert threads.cpus in ([2, 3, 2], [3, 2, 3])


def test_single_cpu_is_not_pinned(workers: Workers) -> None:
    assert run(FakeThreads(workers), [0]).cpu is None


def test_pinning_without_permission_changes_nothing(workers: Workers) -> None:
    assert run(ForbiddenThreads(workers), [0, 1]).cpu is None


@pytest.mark.parametrize(
    ("worked_s", "waited_s", "expected"),
    [(0.0, 0.1, False), (0.0, 1.0, True), (1.0, 3.0, False), (0.5, 3.0, True)],
    ids=["a short wait", "idle and kept from it", "our own crowd", "kept from work"],
)
def test_cpu_is_crowded_by_much_wait_for_little_work(
    worked_s: float, waited_s: float, expected: bool
) -> None:
    assert is_crowded(CpuTime(5.0, 5.0), CpuTime(5.0 + worked_s, 5.0 + waited_s)) is expected
