"""Puts FabricNodes into the cache and tracks their heartbeats. Called by the reflector and with API responses."""

from __future__ import annotations

from dataclasses import dataclass, field

from nvdra_cluster.control.state import decode
from nvdra_cluster.control.state.cache import Cache
from nvdra_cluster.control.state.heartbeats import HeartbeatTracker
from nvdra_cluster.control.state.rate_limit import StatusRateLimiter
from nvdra_cluster.decide.model import FabricView
from nvdra_core.kube.resources import JsonObject
from nvdra_core.runtime.clock import Clock


@dataclass(slots=True, kw_only=True)
class FabricNodeHandler:
    """See the module. Safe for several threads."""

    cache: Cache
    clock: Clock
    heartbeats: HeartbeatTracker
    limiter: StatusRateLimiter = field(default_factory=StatusRateLimiter)

    def on_watch(self, obj: JsonObject) -> None:
        """A FabricNode from the watch; status changes beyond the node's rate are delayed."""
        view = decode.fabric(obj)
        with self.cache.lock:
            self._observe_heartbeat(view)
            old = self.cache.fabrics.get(view.name)
            if not self.limiter.should_delay(old, view, self.clock.monotonic()):
                self.cache.put_fabric(view)

    def on_response(self, obj: JsonObject) -> None:
        """A FabricNode from a response of the API."""
        view = decode.fabric(obj)
        with self.cache.lock:
            self._observe_heartbeat(view)
            self.cache.put_fabric(view)

    def apply_delayed(self) -> None:
        """Put delayed changes into the cache as their rate allows; called periodically."""
        with self.cache.lock:
            for view in self.limiter.take_ready(self.clock.monotonic()):
                self.cache.put_fabric(view)

    def on_delete(self, name: str, uid: str = "") -> None:
        """A FabricNode was deleted."""
        with self.cache.lock:
            self.cache.drop_fabric(name, uid)
            if name not in self.cache.fabrics:
                self.heartbeats.forget(name)
                self.limiter.forget(name)

    def _observe_heartbeat(self, view: FabricView) -> None:
        now_s = self.clock.monotonic()
        self.heartbeats.observe(view.name, view.status.heartbeat_time, now_s, self.clock.wall())
        old = self.cache.fabrics.get(view.name)
        if old is not None and view.spec.domains and not old.spec.domains:
            self.heartbeats.restart(view.name, now_s)
