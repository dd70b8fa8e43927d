"""Detects nodes whose heartbeats stopped or resumed. Called by ``controller`` once a second.

A loss is recorded in the node's spec with its last heartbeat, so that a later leader treats the node as lost from its
first decision on, until there is another heartbeat.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvdra_cluster.control.state.cache import Cache
from nvdra_cluster.control.state.fabric_handler import FabricNodeHandler
from nvdra_cluster.control.state.heartbeats import HeartbeatTracker
from nvdra_cluster.decide.model import FabricView
from nvdra_cluster.decide.writes import FABRIC_NODES
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import ResourceClient
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline

_LOG = log.get(__name__)
READ_TIMEOUT_S = 3.0
READ_LIMIT = 200
"""Suspects that are read in one pass."""


def _is_recorded(view: FabricView) -> bool:
    """Whether an earlier leader recorded the loss, and no heartbeat has come since."""
    return bool(view.spec.lost_heartbeat) and view.spec.lost_heartbeat == view.status.heartbeat_time


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLossDetector:
    """See the module."""

    cache: Cache
    client: ResourceClient
    clock: Clock
    heartbeats: HeartbeatTracker
    fabric_handler: FabricNodeHandler

    def detect(self) -> None:
        """Mark nodes as lost or recovered."""
        now_s = self.clock.monotonic()
        with self.cache.lock:
            active = [view for view in self.cache.fabrics.values() if view.spec.domains]
            recorded = {view.name for view in active if _is_recorded(view)}
            suspects = self.heartbeats.silent((view.name for view in active), now_s)
            recovered = sorted(self.cache.lost - recorded - set(suspects))
        for name in sorted(recorded):
            if self.cache.set_lost(name, is_lost=True):
                _LOG.info("node still lost", node=name)
        for name in recovered:
            if self.cache.set_lost(name, is_lost=False):
                _LOG.info("node recovered", node=name)
        for name in [name for name in suspects if name not in self.cache.lost][:READ_LIMIT]:
            is_silent = self._confirm_heartbeat_loss(name)
            if is_silent is None:
                return  # do not send 200 requests to an API server that does not answer
            if is_silent and self.cache.set_lost(name, is_lost=True):
                _LOG.warning("node lost: heartbeats stopped", node=name)

    def _confirm_heartbeat_loss(self, name: str) -> bool | None:
        """Read the FabricNode from the API, as the watch may lag. None: it could not be read."""
        try:
            obj = self.client.get(FABRIC_NODES, name, deadline=Deadline(READ_TIMEOUT_S, self.clock))
        except ApiError as error:
            if error.status == 404 and error.api_reason == "NotFound":
                self.fabric_handler.on_delete(name)  # missed by the watch
                return False
            _LOG.info("cannot read silent node", v=2, node=name, error=error)
            return None
        self.fabric_handler.on_response(obj)
        return bool(self.heartbeats.silent([name], self.clock.monotonic()))
