"""Has the driver's files listed before a prepare asks for them, and named in the CDI files of prepared claims.

A part of the GPU service, with one worker: it looks at the start, whenever the GPUs or their driver changed, and again
with growing pauses while something is still missing (``/dev/nvidia-uvm`` often comes later than the GPUs).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Protocol

from nvdra_core.clock import Clock, Deadline
from nvdra_core.workers import Workers

HEAD_START_S = 0.05
"""For the slices: no pod comes before them, and both want the CPU. A prepare that does come makes the list itself."""
RETRY_S = 2.0
"""The first pause after a failure; doubles up to MAX_RETRY_S."""
MAX_RETRY_S = 60.0
POLL_S = 1.0
"""How soon the worker notices that the service stops, or that a pause is over."""


class Lister(Protocol):
    """The part of ``cdi.nvidia.CommonEdits`` that is needed."""

    def warm_up(self) -> bool:
        """Have the list ready; whether it is. Never fails."""


class DriverFilesPart:
    """See the module, and nvdra_core.service.Part."""

    name = "driver-files"

    def __init__(
        self, lister: Lister, renew: Callable[[], None], clock: Clock, workers: Workers
    ) -> None:
        """``renew`` brings the CDI files of prepared claims up to the list; it never fails."""
        self._lister = lister
        self._renew = renew
        self._clock = clock
        self._workers = workers
        self._wake = threading.Event()
        # The first look at the GPUs may have been over before anybody was told of it.
        self._wake.set()
        self._look_at_s = math.inf
        self._pause_s = RETRY_S

    def changed(self) -> None:
        """The GPUs or their driver changed. Cheap; from any thread."""
        self._wake.set()

    def start(self) -> None:
        """See Part."""
        self._workers.spawn(self.name, self._run)

    def stop(self, deadline: Deadline) -> None:
        """See Part. The worker sees by itself that the service stops."""

    def tick(self) -> None:
        """Look if there is a reason to."""
        now_s = self._clock.monotonic()
        if self._wake.is_set():
            self._wake.clear()
            self._pause_s = RETRY_S
        elif now_s < self._look_at_s:
            return
        if self._lister.warm_up():
            self._renew()
            self._look_at_s = math.inf
            return
        self._look_at_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, MAX_RETRY_S)

    def _run(self) -> None:
        self._clock.wait(self._workers.stopping, HEAD_START_S)
        while not self._workers.stopping.is_set():
            self.tick()
            self._clock.wait(self._wake, POLL_S)
