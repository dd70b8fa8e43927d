"""What other modules need of ``Rescanner``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nvdra_node.gpu.model import Inventory


class InventorySource(Protocol):
    """The current inventory."""

    @property
    def inventory(self) -> Inventory:
        """Result of the last scan; empty before the first one. A new object after each scan."""

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` after each scan that changed the inventory."""

    def trigger(self, why: str) -> None:
        """Scan soon."""
