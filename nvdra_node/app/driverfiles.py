"""Has the driver's files listed before a prepare asks for them, and named in the CDI files of prepared claims.

A part of the GPU service, with one worker: it checks at the start, whenever the GPUs or their driver changed, when a
prepare failed for want of a file, every CHECK_S seconds, and with growing pauses while something is still missing
(``/dev/nvidia-uvm`` often comes later than the GPUs). Each result is reported: while files are missing, no claim can be
prepared and the node's GPUs are not offered. A prepared claim that could not be brought up to date is tried again with
growing pauses.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Protocol

from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_core.runtime.workers import Workers

CHECK_S = 10.0
"""How soon a file that is gone is noticed; a check costs one stat of each of some 50 files."""
RETRY_S = 2.0
"""The first pause after a failure; doubles up to MAX_RETRY_S."""
MAX_RETRY_S = 15.0
MAX_RENEW_PAUSE_S = 120.0
"""Between tries to bring claims up to date, which may take a program that hangs. The first pause is CHECK_S."""
POLL_S = 1.0
"""How soon the worker notices that the service stops, or that a pause is over."""


class Lister(Protocol):
    """The part of ``cdi.nvidia.CommonEdits`` that is needed."""

    made: int
    """How often the list was made."""

    def warm_up(self) -> str:
        """Have the list ready; why it is not, empty when it is. Never fails."""


class DriverFilesMonitor:
    """See the module, and nvdra_core.runtime.service.Component."""

    name = "driver-files"

    def __init__(
        self,
        lister: Lister,
        renew: Callable[[], bool],
        report: Callable[[str], None],
        clock: Clock,
        workers: Workers,
    ) -> None:
        """``renew`` brings prepared claims up to the list; whether all of them are. It never fails. ``report`` gets the
        result of each check."""
        self._lister = lister
        self._renew = renew
        self._report = report
        self._clock = clock
        self._workers = workers
        self._checked = threading.Event()
        self._wake = threading.Event()
        # The first look at the GPUs may have been over before anybody was told of it.
        self._wake.set()
        self._look_at_s = math.inf
        self._pause_s = RETRY_S
        self._renewed = -1
        self._renew_at_s = 0.0
        self._renew_pause_s = CHECK_S

    def changed(self) -> None:
        """The GPUs or their driver changed. Cheap; from any thread."""
        self._wake.set()

    def wait_first(self, timeout_s: float) -> bool:
        """Wait for the first result; whether there is one."""
        return self._clock.wait(self._checked, timeout_s)

    def start(self) -> None:
        """See Component."""
        self._workers.spawn(self.name, self._run)

    def stop(self, deadline: Deadline) -> None:
        """See Component. The worker sees by itself that the service stops."""

    def tick(self) -> None:
        """Look if there is a reason to."""
        now_s = self._clock.monotonic()
        is_woken = self._wake.is_set()
        self._wake.clear()
        if not is_woken and now_s < self._look_at_s:
            return
        cause = self._lister.warm_up()
        self._report(cause)
        self._checked.set()
        if not cause:
            self._pause_s = RETRY_S
            self._look_at_s = now_s + CHECK_S
            is_due = self._renewed != self._lister.made and now_s >= self._renew_at_s
            if is_woken or is_due:
                self._bring_up_to_date(now_s)
            return
        self._renewed = -1
        if is_woken:
            self._pause_s = RETRY_S
        self._look_at_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, MAX_RETRY_S)

    def _bring_up_to_date(self, now_s: float) -> None:
        if self._renew():
            self._renewed, self._renew_pause_s = self._lister.made, CHECK_S
            return
        self._renewed = -1
        self._renew_at_s = now_s + self._renew_pause_s
        self._renew_pause_s = min(2 * self._renew_pause_s, MAX_RENEW_PAUSE_S)

    def _run(self) -> None:
        while not self._workers.stopping.is_set():
            self.tick()
            self._clock.wait(self._wake, POLL_S)
