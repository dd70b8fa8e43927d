"""Writes the FabricNode's status on changes and as a heartbeat. One thread; run by ``app``.

Nothing waits for it: claims are prepared and released without the API server, and reported when it is back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from nvdra_core.api.fabric import FABRIC_API_VERSION, FABRIC_NODE_KIND, FabricNodeStatus
from nvdra_core.errors import ApiError, NvdraError
from nvdra_core.kube.resources import Resource, WriteOptions
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.imex.report import status as report
from nvdra_node.kube import permission
from nvdra_node.kube.client import Client

_LOG = log.get(__name__)

DEBOUNCE_S = 0.05
"""Changes come in bursts, which are written together."""
MAX_DELAY_S = 10.0
"""Changes that are not urgent are written with the next heartbeat, or after this time."""
PEERS_S = 2.0
"""Minimum interval of writes whose only news is that all peers are connected."""
FORMING_S = 3.0
"""How long a ready domain waits for its peers, so that one write reports both."""
WRITE_S = 10.0
UNSETTLED_POLL_S = 0.2
RETRY_S = (1.0, 2.0, 5.0, 10.0)
"""Pauses after failures, which changes do not shorten."""
MAX_PAUSE_S = 60.0
MANAGER = WriteOptions(field_manager="nvdra-imex-supervisor")


class StatusWriter:
    """See the module."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        node: str,
        current: Callable[[], tuple[FabricNodeStatus, float]],
        clock: Clock,
    ) -> None:
        """``current``: the wanted status, and the seconds between heartbeats."""
        self._unsettled_s: Callable[[], float] = lambda: 0.0
        self._began_s: float | None = None
        self._client = client
        self._resource = resource.sub("status")
        self._node = node
        self._current = current
        self._clock = clock
        self._wake = threading.Event()
        self._written: FabricNodeStatus | None = None
        self._written_at_s = 0.0
        self._delayed_since_s: float | None = None
        self._forming_since_s: float | None = None
        self._failures = 0
        self._not_before_s = float("-inf")
        self.writes = 0
        """Number of writes, for metrics."""

    def delay_first_write(self, unsettled_s: Callable[[], float]) -> None:
        """``unsettled_s``: how long after the start the first write waits for missing facts; 0: none are missing."""
        self._unsettled_s = unsettled_s

    def changed(self) -> None:
        """The status may have changed; from any thread."""
        self._wake.set()

    def retry(self) -> None:
        """The cause of a failure may be gone: write now. From any thread."""
        self._not_before_s = float("-inf")
        self._wake.set()

    def run(self, stopping: threading.Event) -> None:
        """Write until ``stopping``."""
        while not stopping.is_set():
            self._clock.wait(self._wake, self.write_if_due())
            if self._wake.is_set() and not self._clock.wait(stopping, DEBOUNCE_S):
                self._wake.clear()

    def stop(self) -> None:
        """Wake ``run`` after ``stopping`` was set."""
        self._wake.set()

    def write_if_due(self) -> float:
        """Write a change or a heartbeat; the seconds until the next is due. Never raises NvdraError."""
        wait_s = self._not_before_s - self._clock.monotonic()
        if wait_s > 0:
            return wait_s
        if self._written is None and self._is_early():
            return UNSETTLED_POLL_S
        status, heartbeat_s = self._current()
        due_s = min(self._heartbeat_due_s(heartbeat_s), self._change_due_s(status))
        if due_s > 0:
            return due_s
        try:
            self._write(status)
        except NvdraError as error:
            pause_s = RETRY_S[min(self._failures, len(RETRY_S) - 1)]
            self._failures += 1
            if isinstance(error, ApiError) and error.retry_after_s is not None:
                pause_s = max(pause_s, min(error.retry_after_s, MAX_PAUSE_S))
            self._not_before_s = self._clock.monotonic() + pause_s
            self._report_failure(error, pause_s)
            return pause_s
        self._failures = 0
        self._written, self._written_at_s = status, self._clock.monotonic()
        self._delayed_since_s = self._forming_since_s = None
        return heartbeat_s

    def _report_failure(self, error: NvdraError, pause_s: float) -> None:
        """Log a refusal as a warning, once in a row, and what passes by itself as info."""
        if isinstance(error, ApiError) and error.status == 403 and self._failures == 1:
            remedy = permission.with_remedy(error, self._node)
            _LOG.warning("FabricNode status not written", remedy, pause_s=pause_s)
        else:
            _LOG.info("FabricNode status not written", v=1, error=str(error), pause_s=pause_s)

    def _is_early(self) -> bool:
        """Whether a first write could revoke what an earlier instance reported and is still true."""
        now_s = self._clock.monotonic()
        if self._began_s is None:
            self._began_s = now_s
        return now_s - self._began_s < self._unsettled_s()

    def _heartbeat_due_s(self, heartbeat_s: float) -> float:
        """Seconds until the next heartbeat."""
        return self._written_at_s + heartbeat_s - self._clock.monotonic()

    def _change_due_s(self, status: FabricNodeStatus) -> float:
        """Seconds until the status must be written because it has changed."""
        if status == self._written:
            self._delayed_since_s = self._forming_since_s = None
            return float("inf")
        if self._written is None:
            return 0.0
        now_s = self._clock.monotonic()
        if report.awaits_peers(self._written, status):
            if self._forming_since_s is None:
                self._forming_since_s = now_s
            return max(0.0, self._forming_since_s + FORMING_S - now_s)
        self._forming_since_s = None
        if report.is_urgent(self._written, status):
            return 0.0
        if self._delayed_since_s is None:
            self._delayed_since_s = now_s
        due_s = self._delayed_since_s + MAX_DELAY_S
        if report.has_all_peers(self._written, status):
            due_s = min(due_s, self._written_at_s + PEERS_S)
        return max(0.0, due_s - now_s)

    def _write(self, status: FabricNodeStatus) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock.wall()))
        body = {
            "apiVersion": FABRIC_API_VERSION,
            "kind": FABRIC_NODE_KIND,
            "metadata": {"name": self._node},
            "status": report.encode(status, now),
        }
        deadline = Deadline(WRITE_S, self._clock)
        self._client.merge_patch(self._resource, body, options=MANAGER, deadline=deadline)
        self.writes += 1
