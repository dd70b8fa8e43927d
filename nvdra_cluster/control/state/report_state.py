"""Verification state of node reports that no watched claim confirms. Owned by ``cache``, used with its lock held.

``reconciler`` requests verification; ``report_verifier`` confirms or refutes.
"""

from __future__ import annotations

from collections.abc import Iterable

ASSIGNED_GRACE_S = 600.0
Pair = tuple[str, str]
"""Node and UID of the reported domain."""


class ReportStates:
    """See the module. Not safe for several threads."""

    def __init__(self) -> None:
        self.pending: dict[Pair, bool] = {}
        """Reports to verify; whether the deletion of the domain waits for the result."""
        self.confirmed: set[Pair] = set()
        """A claim in the API confirms the report."""
        self.refuted: dict[Pair, float] = {}
        """No claim confirms the report; since when (monotonic)."""
        self._unassigned: dict[Pair, float] = {}
        """Domains removed from node specs, and when; oldest first."""

    def note_unassigned(self, node: str, domain_uids: Iterable[str], now_s: float) -> None:
        """The node's spec no longer names these domains. The node may have started them just before, and a lagging
        watch shows that late, so they count as assigned for ASSIGNED_GRACE_S more.
        """
        for uid in domain_uids:
            self._unassigned.pop((node, uid), None)
            self._unassigned[node, uid] = now_s
        while now_s - next(iter(self._unassigned.values()), now_s) >= ASSIGNED_GRACE_S:
            del self._unassigned[next(iter(self._unassigned))]

    def was_assigned(self, pair: Pair, now_s: float) -> bool:
        """Whether the node's spec named the domain within the last ASSIGNED_GRACE_S."""
        at_s = self._unassigned.get(pair)
        return at_s is not None and now_s - at_s < ASSIGNED_GRACE_S

    def request(self, pair: Pair, *, is_urgent: bool) -> None:
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
        """The node no longer reports these domains."""
        for uid in domain_uids:
            self.pending.pop((node, uid), None)
            self.confirmed.discard((node, uid))
            self.refuted.pop((node, uid), None)
