"""Token buckets that bound what one node costs: status changes (``fabric_handler``), reads (``report_verifier``)."""

from __future__ import annotations

from dataclasses import dataclass

from nvdra_cluster.control.state import index
from nvdra_cluster.decide.model import FabricView

CHANGE_BURST = 40
"""Far more than a node has to report while all its pods start."""
CHANGES_PER_S = 1.0


@dataclass(slots=True)
class TokenBucket:
    """Tokens that come back with time."""

    limit: float
    per_s: float
    left: float
    at_s: float

    def take(self, now_s: float) -> bool:
        """Whether there is one, which is then spent."""
        self.left = min(self.limit, self.left + (now_s - self.at_s) * self.per_s)
        self.at_s = now_s
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True


class StatusRateLimiter:
    """Holds back changes of a node's status that come too fast, and keeps the last one. Not safe for several threads.

    Each change makes decisions about all its peers and domains due, and may rewrite the specs of its clique.
    """

    def __init__(self) -> None:
        self._budgets: dict[str, TokenBucket] = {}
        self._held: dict[str, FabricView] = {}

    def holds(self, old: FabricView | None, view: FabricView, now_s: float) -> bool:
        """Whether ``view`` must wait; ``ripe`` returns it later. What the controller wrote itself never does."""
        self._held.pop(view.name, None)
        is_status = old is not None and (old.uid, old.spec) == (view.uid, view.spec)
        if old is None or not is_status or index.is_same(old, view):
            return False
        if self._budget(view.name, now_s).take(now_s):
            return False
        self._held[view.name] = view
        return True

    def ripe(self, now_s: float) -> list[FabricView]:
        """What has waited long enough."""
        found = [view for name, view in self._held.items() if self._budget(name, now_s).take(now_s)]
        for view in found:
            del self._held[view.name]
        return found

    def forget(self, name: str) -> None:
        """The node has no FabricNode any more."""
        self._budgets.pop(name, None)
        self._held.pop(name, None)

    def _budget(self, name: str, now_s: float) -> TokenBucket:
        new = TokenBucket(CHANGE_BURST, CHANGES_PER_S, CHANGE_BURST, now_s)
        return self._budgets.setdefault(name, new)
