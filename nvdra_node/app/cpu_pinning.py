"""Keeps all threads of a service on one CPU. Called by ``gpu``.

Python runs one thread at a time. Spread over CPUs, a thread that waits for its turn sits on another one, and each of
the hundred times that a prepare changes threads costs an interrupt between CPUs and the waking of an idle one. With all
on one CPU it costs a plain switch: eight callers get twice as many answers, and one caller gets his a quarter sooner.

A CPU that others keep busy would be worse than any. So the threads' waiting is looked at now and then, and where it is
far more than their work they move to another CPU. Programs that the service starts may use all CPUs (``host.cpus``).
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

LOOK_S = 5.0
CROWDED_S = 0.25
"""So much waiting between two looks, and CROWDED_TIMES as much as work: others need this CPU."""
CROWDED_TIMES = 4.0

_LOG = log.get(__name__)


class Threads(Protocol):
    """The process's threads (``host.cpus.Cpus``)."""

    def gather(self, cpu: int) -> None:
        """Move all to one CPU. Raises HostError."""

    def time(self) -> CpuTime:
        """What they have worked and waited so far."""


class CpuPinner:
    """See the module; a part of a service, the last to be started."""

    name = "one cpu"

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
        self._next = os.getpid()  # services of one node are likely to begin on different ones
        self.cpu: int | None = None
        """Where the threads are; None: wherever the kernel likes."""

    def start(self) -> None:
        """Gather the threads, unless there is one CPU only or it is not allowed."""
        if len(self._allowed) > 1 and self._move():
            self._workers.spawn("one-cpu", self._watch)

    def stop(self, deadline: Deadline) -> None:
        """See Component."""

    def _watch(self) -> None:
        before = self._threads.time()
        while not self._clock.wait(self._workers.stopping, LOOK_S):
            now = self._threads.time()
            if is_crowded(before, now):
                _LOG.info("CPU is crowded: moving", v=6, cpu=self.cpu)
                self._move()
            before = now

    def _move(self) -> bool:
        """To the next CPU; False when that is not allowed."""
        cpu = self._allowed[self._next % len(self._allowed)]
        self._next += 1
        try:
            self._threads.gather(cpu)
        except HostError as error:
            _LOG.info("threads stay where they are", error=str(error))
            return False
        self.cpu = cpu
        return True


def is_crowded(before: CpuTime, now: CpuTime) -> bool:
    """Whether others kept the threads from their work. Threads that have ended make both less."""
    waited_s, worked_s = now.waited_s - before.waited_s, now.worked_s - before.worked_s
    return waited_s > CROWDED_S and waited_s > CROWDED_TIMES * worked_s
