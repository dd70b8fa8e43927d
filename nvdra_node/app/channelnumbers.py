"""Has the CDI files of prepared claims written again when IMEX channels get another major number.

The major is dealt out whenever the NVIDIA driver is loaded; the old number may be any other device afterwards. A part
of the ComputeDomain service, with one worker.
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
        """``renew`` brings the CDI files of prepared claims up to date; it never fails."""
        self._sysfs = sysfs
        self._renew = renew
        self._clock = clock
        self._workers = workers
        self._major: int | None = None

    def start(self) -> None:
        """See Component."""
        self._workers.spawn(self.name, self._run)

    def stop(self, deadline: Deadline) -> None:
        """See Component. The worker sees by itself that the service stops."""

    def tick(self) -> None:
        """Renew if the driver has another major than at the last tick with a driver, and at the first one."""
        major = self._sysfs.char_major(CHANNEL_CLASS)
        if major not in (None, self._major):
            self._major = major
            self._renew()

    def _run(self) -> None:
        while not self._clock.wait(self._workers.stopping, POLL_S):
            self.tick()
