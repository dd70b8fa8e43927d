"""What is known about reports of nodes that no watched claim confirms. Owned by ``cache``, read by ``reports``.

``reports`` asks by adding to ``pending``, ``verifier`` answers. All with the cache's lock held.
"""

from __future__ import annotations

from collections.abc import Iterable

TOLD_S = 600.0
Pair = tuple[str, str]
"""Node and UID of the domain that it reports."""


class ReportStates:
    """See the module. Not safe for several threads."""

    def __init__(self) -> None:
        self.pending: dict[Pair, bool] = {}
        """Reports to verify; whether the deletion of the domain waits for the answer."""
        self.confirmed: set[Pair] = set()
        """A claim in the API confirms the report."""
        self.refuted: dict[Pair, float] = {}
        """No claim does; and since when (monotonic)."""
        self._untold: dict[Pair, float] = {}
        """Domains that specs of nodes do not name any more, and since when; oldest first."""

    def untell(self, node: str, domain_uids: Iterable[str], now_s: float) -> None:
        """The node's spec names these domains no more. It may begin with them all the same: what it does is known
        here a moment later, or much later where a watch is behind.
        """
        for uid in domain_uids:
            self._untold.pop((node, uid), None)
            self._untold[node, uid] = now_s
        while now_s - next(iter(self._untold.values()), now_s) >= TOLD_S:
            del self._untold[next(iter(self._untold))]

    def was_told(self, pair: Pair, now_s: float) -> bool:
        """Whether the node's spec named the domain until a short time ago."""
        at_s = self._untold.get(pair)
        return at_s is not None and now_s - at_s < TOLD_S

    def ask(self, pair: Pair, *, is_urgent: bool) -> None:
        """Have a report verified."""
        self.pending[pair] = is_urgent or self.pending.get(pair, False)

    def confirm(self, pair: Pair) -> None:
        """A claim confirms the report."""
        self.refuted.pop(pair, None)
        self.confirmed.add(pair)

    def refute(self, pair: Pair, now_s: float) -> None:
        """No claim confirms the report."""
        self.confirmed.discard(pair)
        self.refuted.setdefault(pair, now_s)

    def forget(self, node: str, domain_uids: Iterable[str]) -> None:
        """The node reports these domains no more."""
        for uid in domain_uids:
            self.pending.pop((node, uid), None)
            self.confirmed.discard((node, uid))
            self.refuted.pop((node, uid), None)
