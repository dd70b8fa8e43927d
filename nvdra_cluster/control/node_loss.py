"""Finds nodes that have fallen silent, and those that are back. Called by ``loop``, once a second.

A loss is recorded in the node's spec (``nodespecs``), with the heartbeat that was the last: a leader that comes later
calls the node lost from its first decision on, until there is another heartbeat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nvdra_cluster.control.state.cache import Cache
from nvdra_cluster.control.state.heartbeats import HeartbeatTracker
from nvdra_cluster.decide.model import FabricView
from nvdra_cluster.decide.writes import FABRIC_NODES
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import Client
from nvdra_core.kube.resources import JsonObject
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline

_LOG = log.get(__name__)
ASK_TIMEOUT_S = 3.0
ASK_LIMIT = 200
"""Suspected nodes that are asked about in one round."""


def _is_recorded(view: FabricView) -> bool:
    """Whether an earlier leader found the node silent, and it has been since."""
    return bool(view.spec.lost_heartbeat) and view.spec.lost_heartbeat == view.status.heartbeat_time


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLossDetector:
    """See the module."""

    cache: Cache
    client: Client
    clock: Clock
    heartbeats: HeartbeatTracker
    observe_fabric: Callable[[JsonObject], None]
    forget_fabric: Callable[[str], None]

    def look(self) -> None:
        """Find nodes that have fallen silent, and those that are back."""
        now_s = self.clock.monotonic()
        with self.cache.lock:
            active = [view for view in self.cache.fabrics.values() if view.spec.domains]
            recorded = {view.name for view in active if _is_recorded(view)}
            suspects = self.heartbeats.silent((view.name for view in active), now_s)
            back = sorted(self.cache.lost - recorded - set(suspects))
        for name in sorted(recorded):
            if self.cache.set_lost(name, is_lost=True):
                _LOG.info("node is still lost", node=name)
        for name in back:
            if self.cache.set_lost(name, is_lost=False):
                _LOG.info("node is back", node=name)
        news = [name for name in suspects if name not in self.cache.lost]
        for name in news[:ASK_LIMIT]:
            is_silent = self._confirm_heartbeat_loss(name)
            if is_silent is None:
                return  # an API server that does not answer is not asked 200 times
            if is_silent and self.cache.set_lost(name, is_lost=True):
                _LOG.warning("node lost: its heartbeats stopped", node=name)

    def _confirm_heartbeat_loss(self, name: str) -> bool | None:
        """Ask the API server itself: our watch may be what is silent. None: it does not say."""
        try:
            obj = self.client.get(FABRIC_NODES, name, deadline=Deadline(ASK_TIMEOUT_S, self.clock))
        except ApiError as error:
            if error.status == 404 and error.api_reason == "NotFound":
                self.forget_fabric(name)  # our watch has missed it
                return False
            _LOG.info("cannot ask about a silent node", v=2, node=name, error=error)
            return None
        self.observe_fabric(obj)
        return bool(self.heartbeats.silent([name], self.clock.monotonic()))
