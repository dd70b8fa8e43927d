"""Keeps the list of the driver's files ready for prepares, and the CDI files of prepared claims up to date with it.

One worker. Checks at start, after changes of the GPUs or their driver, after a prepare that missed a file, every
CHECK_S, and with backoff while files are missing (``/dev/nvidia-uvm`` often appears after the GPUs). Each result is
reported: while files are missing, claims cannot be prepared and the GPUs are not published.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Protocol

from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_core.runtime.workers import Workers

CHECK_S = 10.0
"""Time until a deleted file is noticed; a check costs a stat of about 50 files."""
RETRY_S = 2.0
"""First pause after a failure; doubles up to MAX_RETRY_S."""
MAX_RETRY_S = 15.0
MAX_RENEW_PAUSE_S = 120.0
"""Between attempts to update claims, each of which may wait for a hanging program. The first pause is CHECK_S."""
POLL_S = 1.0
"""Time until the worker notices a stop or the end of a pause."""


class Lister(Protocol):
    """The part of ``cdi.nvidia.CommonEdits`` that is needed."""

    made: int
    """How often the list was built."""

    def warm_up(self) -> str:
        """Build the list if necessary; returns why it cannot be, else an empty text. Does not raise."""


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
        """``renew`` updates prepared claims and returns whether all are up to date; it does not raise. ``report`` gets
        the result of each check."""
        self._lister = lister
        self._renew = renew
        self._report = report
        self._clock = clock
        self._workers = workers
        self._checked = threading.Event()
        self._wake = threading.Event()
        # The first scan may have ended before this monitor subscribed to it.
        self._wake.set()
        self._check_at_s = math.inf
        self._pause_s = RETRY_S
        self._renewed = -1
        self._renew_at_s = 0.0
        self._renew_pause_s = CHECK_S

    def changed(self) -> None:
        """Check soon: the GPUs or their driver changed. Cheap; from any thread."""
        self._wake.set()

    def wait_first(self, timeout_s: float) -> bool:
        """Wait for the first result; returns whether there is one."""
        return self._clock.wait(self._checked, timeout_s)

    def start(self) -> None:
        """See Component."""
        self._workers.spawn(self.name, self._run)

    def stop(self, deadline: Deadline) -> None:
        """See Component. The worker ends by ``workers.stopping``."""

    def check_if_due(self) -> None:
        """One pass of the worker."""
        now_s = self._clock.monotonic()
        is_woken = self._wake.is_set()
        self._wake.clear()
        if not is_woken and now_s < self._check_at_s:
            return
        cause = self._lister.warm_up()
        self._report(cause)
        self._checked.set()
        if not cause:
            self._pause_s = RETRY_S
            self._check_at_s = now_s + CHECK_S
            is_due = self._renewed != self._lister.made and now_s >= self._renew_at_s
            if is_woken or is_due:
                self._update_claims(now_s)
            return
        self._renewed = -1
        if is_woken:
            self._pause_s = RETRY_S
        self._check_at_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, MAX_RETRY_S)

    def _update_claims(self, now_s: float) -> None:
        if self._renew():
            self._renewed, self._renew_pause_s = self._lister.made, CHECK_S
            return
        self._renewed = -1
        self._renew_at_s = now_s + self._renew_pause_s
        self._renew_pause_s = min(2 * self._renew_pause_s, MAX_RENEW_PAUSE_S)

    def _run(self) -> None:
        while not self._workers.stopping.is_set():
            self.check_if_due()
            self._clock.wait(self._wake, POLL_S)
