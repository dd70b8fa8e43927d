"""Takes FabricNodes over: into the cache, with their heartbeats. Called by the watch, and with answers of the API."""

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
    """See the module. From any thread."""

    cache: Cache
    clock: Clock
    heartbeats: HeartbeatTracker
    pacer: StatusRateLimiter = field(default_factory=StatusRateLimiter)

    def watched(self, obj: JsonObject) -> None:
        """A FabricNode as the watch has it. One that changes all the time is taken over now and then."""
        view = decode.fabric(obj)
        with self.cache.lock:
            self._note(view)
            old = self.cache.fabrics.get(view.name)
            if not self.pacer.holds(old, view, self.clock.monotonic()):
                self.cache.put_fabric(view)

    def read(self, obj: JsonObject) -> None:
        """A FabricNode as the API has just answered."""
        view = decode.fabric(obj)
        with self.cache.lock:
            self._note(view)
            self.cache.put_fabric(view)

    def take_held(self) -> None:
        """Take over what was held back and has waited long enough; now and then."""
        with self.cache.lock:
            for view in self.pacer.ripe(self.clock.monotonic()):
                self.cache.put_fabric(view)

    def gone(self, name: str, uid: str = "") -> None:
        """A FabricNode is gone."""
        with self.cache.lock:
            self.cache.drop_fabric(name, uid)
            if name not in self.cache.fabrics:
                self.heartbeats.forget(name)
                self.pacer.forget(name)

    def _note(self, view: FabricView) -> None:
        now_s = self.clock.monotonic()
        self.heartbeats.note(view.name, view.status.heartbeat_time, now_s, self.clock.wall())
        old = self.cache.fabrics.get(view.name)
        if old is not None and view.spec.domains and not old.spec.domains:
            self.heartbeats.begin(view.name, now_s)
