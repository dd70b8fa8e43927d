"""Token buckets that bound what one node costs: status changes (``fabric_handler``), reads (``report_verifier``)."""

from __future__ import annotations

from dataclasses import dataclass

from nvdra_cluster.control.state import index
from nvdra_cluster.decide.model import FabricView

STATUS_BURST = 40
"""Far more than a node reports while all its pods start."""
STATUS_CHANGES_PER_S = 1.0


@dataclass(slots=True)
class TokenBucket:
    """At most ``burst`` tokens; ``per_s`` are added every second."""

    burst: float
    per_s: float
    tokens: float
    at_s: float

    def take(self, now_s: float) -> bool:
        """Spend a token; False when there is none."""
        self.tokens = min(self.burst, self.tokens + (now_s - self.at_s) * self.per_s)
        self.at_s = now_s
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class StatusRateLimiter:
    """Delays a node's status changes beyond its rate and keeps the last one. Not safe for several threads.

    Each change queues the node's domains and clique, and may rewrite the specs of all its peers.
    """

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}
        self._delayed: dict[str, FabricView] = {}

    def should_delay(self, old: FabricView | None, view: FabricView, now_s: float) -> bool:
        """Whether ``view`` must wait for ``take_ready``. Changes of the spec (our own writes) are never delayed."""
        self._delayed.pop(view.name, None)
        is_status = old is not None and (old.uid, old.spec) == (view.uid, view.spec)
        if old is None or not is_status or index.is_same(old, view):
            return False
        if self._bucket(view.name, now_s).take(now_s):
            return False
        self._delayed[view.name] = view
        return True

    def take_ready(self, now_s: float) -> list[FabricView]:
        """Delayed changes whose rate allows them now."""
        delayed = self._delayed.items()
        found = [view for name, view in delayed if self._bucket(name, now_s).take(now_s)]
        for view in found:
            del self._delayed[view.name]
        return found

    def forget(self, name: str) -> None:
        """The FabricNode was deleted."""
        self._buckets.pop(name, None)
        self._delayed.pop(name, None)

    def _bucket(self, name: str, now_s: float) -> TokenBucket:
        new = TokenBucket(STATUS_BURST, STATUS_CHANGES_PER_S, STATUS_BURST, now_s)
        return self._buckets.setdefault(name, new)
