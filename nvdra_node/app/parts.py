"""Parts of a service made of functions: what has no class of its own to be started and stopped."""

from __future__ import annotations

from collections.abc import Callable

from nvdra_core.clock import Deadline
from nvdra_core.value import Value


def _nothing() -> None:
    return None


def _nothing_by(deadline: Deadline) -> None:
    return None


class FunctionPart(Value, kw_only=True):
    """See nvdra_core.service.Part."""

    name: str
    begin: Callable[[], None] = _nothing
    end: Callable[[Deadline], None] = _nothing_by

    def start(self) -> None:
        """See Part."""
        self.begin()

    def stop(self, deadline: Deadline) -> None:
        """See Part."""
        self.end(deadline)
