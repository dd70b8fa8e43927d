"""FakeUnits: units in memory, with state and faults.."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from nvdra_core.errors import HostError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.host.units import Properties


class FakeUnits:
    """See host.units.Units. Every unit exists; ``states`` are their ActiveState."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.history: list[tuple[str, ...]] = []
        self.may_finish = threading.Event()
        """Cleared: every operation waits until it is set."""
        self.may_finish.set()
        self.error = ""
        """What every operation fails with, unless it is empty."""

    def show(self, names: Sequence[str], deadline: Deadline) -> dict[str, Properties]:
        """See Units."""
        self._enter("show", *names)
        return {n: {"Id": n, "ActiveState": self.states.get(n, "inactive")} for n in names}

    def start(self, name: str, deadline: Deadline) -> None:
        """See Units."""
        self._enter("start", name)
        self.states[name] = "active"

    def stop(self, name: str, deadline: Deadline) -> None:
        """See Units."""
        self._enter("stop", name)
        self.states[name] = "inactive"

    def reload(self, name: str, deadline: Deadline) -> None:
        """See Units."""
        self._enter("reload", name)

    def reset_failed(self, name: str, deadline: Deadline) -> None:
        """See Units."""
        self._enter("reset-failed", name)

    def _enter(self, *call: str) -> None:
        self.history.append(call)
        self.may_finish.wait()
        if self.error:
            raise HostError(self.error)
