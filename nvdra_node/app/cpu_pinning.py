"""Pins the service's threads to one CPU: avoids cross-CPU wake-ups between GIL holders. Called by ``gpu``.

A prepare changes threads about a hundred times. Measured: 8 callers get 2x the throughput, one caller a quarter less
latency (docs/dev/bench.md). If other processes crowd the CPU, the threads move to the next one. Child processes may use
all CPUs (``host.cpus``).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Protocol

from nvdra_core.errors import HostError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_core.runtime.workers import Workers
from nvdra_node.host.cpus import ALLOWED, CpuTime

CHECK_S = 5.0
CROWDED_S = 0.25
"""More run-queue wait than this between two checks, and CROWDED_TIMES the CPU time: the CPU is crowded."""
CROWDED_TIMES = 4.0

_LOG = log.get(__name__)


class Threads(Protocol):
    """The process's threads (``host.cpus.Cpus``)."""

    def pin(self, cpu: int) -> None:
        """Pin all to one CPU. Raises HostError."""

    def time(self) -> CpuTime:
        """Their CPU time and run-queue wait so far."""


class CpuPinner:
    """A component, started last so that all threads exist."""

    name = "cpu pinning"

    def __init__(
        self,
        threads: Threads,
        clock: Clock,
        workers: Workers,
        allowed: Collection[int] = ALLOWED,
    ) -> None:
        self._threads = threads
        self._clock = clock
        self._workers = workers
        self._allowed = sorted(allowed)
        self._next = os.getpid()  # so that the services of a node begin on different CPUs
        self.cpu: int | None = None
        """The CPU the threads are pinned to; None: not pinned."""

    def start(self) -> None:
        """Pin the threads, unless there is one CPU only or pinning is not permitted."""
        if len(self._allowed) > 1 and self._move():
            self._workers.spawn("cpu-pinning", self._monitor)

    def stop(self, deadline: Deadline) -> None:
        """See Component."""

    def _monitor(self) -> None:
        before = self._threads.time()
        while not self._clock.wait(self._workers.stopping, CHECK_S):
            now = self._threads.time()
            if is_crowded(before, now):
                _LOG.info("CPU crowded; moving threads", v=6, cpu=self.cpu)
                self._move()
            before = now

    def _move(self) -> bool:
        """Pin to the next CPU; False if not permitted."""
        cpu = self._allowed[self._next % len(self._allowed)]
        self._next += 1
        try:
            self._threads.pin(cpu)
        except HostError as error:
            _LOG.info("CPU pinning failed; continuing unpinned", error=str(error))
            return False
        self.cpu = cpu
        return True


def is_crowded(before: CpuTime, now: CpuTime) -> bool:
    """Whether other processes delayed the threads. Ended threads reduce both sums."""
    waited_s, worked_s = now.waited_s - before.waited_s, now.worked_s - before.worked_s
    return waited_s > CROWDED_S and waited_s > CROWDED_TIMES * worked_s
