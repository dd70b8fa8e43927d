"""Scans the GPUs' NVLink fabric periodically, and more often until it has settled. One thread; run by ``app``."""

from __future__ import annotations

import threading

from nvdra_core.api.fabric import FabricState
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock
from nvdra_node.host.host import Host
from nvdra_node.imex.model import Fabric
from nvdra_node.imex.sources import fabric
from nvdra_node.imex.supervisor import Supervisor

_LOG = log.get(__name__)

FABRIC_S = 30.0
UNSETTLED_FABRIC_S = 2.0


class FabricMonitor:
    """See the module."""

    def __init__(
        self, host: Host, clock: Clock, supervisor: Supervisor, *, is_strict: bool = True
    ) -> None:
        self._is_strict = is_strict
        self._host = host
        self._clock = clock
        self._supervisor = supervisor
        self._last: Fabric | None = None
        self._wake = threading.Event()

    def trigger(self) -> None:
        """Scan now; from any thread."""
        self._wake.set()

    def run(self, stopping: threading.Event) -> None:
        """Scan until ``stopping``."""
        while not stopping.is_set():
            self._wake.clear()
            pause_s = self.scan()
            if self._clock.wait(stopping, 0.0):
                return
            self._clock.wait(self._wake, pause_s)

    def scan(self) -> float:
        """One scan; the seconds until the next."""
        seen = fabric.scan(self._host, self._clock, is_strict=self._is_strict)
        found = fabric.with_previous(seen, self._last)
        if found != self._last:
            _LOG.info(
                "fabric changed", state=found.state.value, clique=found.clique_id, why=found.message
            )
            self._last = found
            self._supervisor.set_fabric(found)
        is_settled = seen.state in (FabricState.COMPLETED, FabricState.NOT_SUPPORTED)
        return FABRIC_S if is_settled else UNSETTLED_FABRIC_S
