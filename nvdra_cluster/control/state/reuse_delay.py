"""Slots of nodes that were deleted lately: nobody else gets them while the machine may still run. Owned by ``cache``.

A slot begins to cool when its FabricNode goes. This is memory alone; but the lists of the clique's other nodes
go on to name who cools, so that a process that came later begins anew where those lists name a node that is
not there: it cools longer then, and never shorter. Times are of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SLOT_REUSE_DELAY_S = 300.0
"""How long the slot of a FabricNode that is gone stays taken."""


@dataclass(frozen=True, slots=True)
class _Cooling:
    slot: int
    until_s: float


class ReuseDelays:
    """See the module. Not safe for several threads."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], _Cooling] = {}
        """By node and clique."""

    def __contains__(self, node: str) -> bool:
        return any(name == node for name, _ in self._found)

    def begin(self, node: str, clique_id: str, slot: int, now_s: float) -> None:
        """The node had that slot until now."""
        self._found[node, clique_id] = _Cooling(slot, now_s + SLOT_REUSE_DELAY_S)

    def of(self, node: str, now_s: float) -> tuple[str, int] | None:
        """Clique and slot that a node had a short time ago; None: it had none, or they are cold."""
        found = [
            (one.until_s, clique_id, one.slot)
            for (name, clique_id), one in self._found.items()
            if name == node and one.until_s > now_s
        ]
        return max(found)[1:] if found else None

    def look(self, clique_id: str, gone: Mapping[str, int], now_s: float) -> dict[str, int]:
        """Slots of a clique that cool now, by node. ``gone``: those in lists of the clique's nodes whose node
        is not there.

        What is cold is remembered as long as a list names it: it would begin to cool again.
        """
        for node, slot in gone.items():
            if (node, clique_id) not in self._found:
                self.begin(node, clique_id, slot, now_s)
        here = {name: one for (name, clique), one in self._found.items() if clique == clique_id}
        for node, one in here.items():
            if one.until_s <= now_s and node not in gone:
                del self._found[node, clique_id]
        return {node: one.slot for node, one in here.items() if one.until_s > now_s}

    def cold(self, now_s: float) -> Iterable[str]:
        """Cliques with slots that are cold and that nobody has looked at since."""
        return {clique for (_, clique), one in self._found.items() if one.until_s <= now_s}
