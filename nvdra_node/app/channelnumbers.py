"""Rewrites the CDI files of prepared claims when IMEX channels get another major number. One worker.

The kernel assigns the major dynamically when the NVIDIA driver is loaded; the old number may then be another device.
"""

from __future__ import annotations

from collections.abc import Callable

from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_core.runtime.workers import Workers
from nvdra_node.computedomain.model import CHANNEL_CLASS
from nvdra_node.host.ports import Sysfs

POLL_S = 5.0


class ChannelNumberMonitor:
    """See the module, and nvdra_core.runtime.service.Component."""

    name = "channel-numbers"

    def __init__(
        self, sysfs: Sysfs, renew: Callable[[], object], clock: Clock, workers: Workers
    ) -> None:
        """``renew`` updates the CDI files of prepared claims; it does not raise."""
        self._sysfs = sysfs
        self._renew = renew
        self._clock = clock
        self._workers = workers
        self._major: int | None = None

    def start(self) -> None:
        """See Component."""
        self._workers.spawn(self.name, self._run)

    def stop(self, deadline: Deadline) -> None:
        """See Component. The worker ends by ``workers.stopping``."""

    def check(self) -> None:
        """Renew if the major differs from that of the last check with a driver, and at the first check."""
        major = self._sysfs.char_major(CHANNEL_CLASS)
        if major not in (None, self._major):
            self._major = major
            self._renew()

    def _run(self) -> None:
        while not self._clock.wait(self._workers.stopping, POLL_S):
            self.check()
