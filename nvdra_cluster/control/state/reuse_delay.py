"""Slots of deleted FabricNodes, which stay reserved while the machine may still run IMEX. Owned by ``cache``.

Kept in memory only. The slot lists of the clique's other nodes name the reserved slots, so a process that starts later
finds them there and begins the full delay again: longer, never shorter. Times are monotonic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SLOT_REUSE_DELAY_S = 300.0


@dataclass(frozen=True, slots=True)
class _Reserved:
    slot: int
    until_s: float


class SlotReuseDelays:
    """See the module. Not safe for several threads."""

    def __init__(self) -> None:
        self._reserved: dict[tuple[str, str], _Reserved] = {}
        """By node and clique."""

    def __contains__(self, node: str) -> bool:
        return any(name == node for name, _ in self._reserved)

    def reserve(self, node: str, clique_id: str, slot: int, now_s: float) -> None:
        """Start the delay of the slot that a node had until now."""
        self._reserved[node, clique_id] = _Reserved(slot, now_s + SLOT_REUSE_DELAY_S)

    def of(self, node: str, now_s: float) -> tuple[str, int] | None:
        """Clique and slot that are reserved for a node."""
        found = [
            (one.until_s, clique_id, one.slot)
            for (name, clique_id), one in self._reserved.items()
            if name == node and one.until_s > now_s
        ]
        return max(found)[1:] if found else None

    def in_clique(self, clique_id: str, stale: Mapping[str, int], now_s: float) -> dict[str, int]:
        """Reserved slots of a clique, by node. ``stale``: entries of its slot lists without Node and FabricNode.

        An expired entry is kept while a list names it: otherwise its delay would start again.
        """
        for node, slot in stale.items():
            if (node, clique_id) not in self._reserved:
                self.reserve(node, clique_id, slot, now_s)
        here = {name: one for (name, clique), one in self._reserved.items() if clique == clique_id}
        for node, one in here.items():
            if one.until_s <= now_s and node not in stale:
                del self._reserved[node, clique_id]
        return {node: one.slot for node, one in here.items() if one.until_s > now_s}

    def expired(self, now_s: float) -> Iterable[str]:
        """Cliques with expired reservations that have not been reconciled since."""
        return {clique for (_, clique), one in self._reserved.items() if one.until_s <= now_s}
