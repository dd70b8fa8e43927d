"""What the reconcile loop shares with other threads: inputs, claims, memory and the last snapshot. Used by
``supervisor`` and ``claims``.
"""

from __future__ import annotations

import threading

from nvdra_core.api.fabric import FabricNodeSpec, ImexState
from nvdra_core.errors import NvdraError
from nvdra_core.runtime import log
from nvdra_node.imex import replies
from nvdra_node.imex.daemon.control import Dependencies
from nvdra_node.imex.daemon.unit import UnitStatus
from nvdra_node.imex.model import Fabric, Holder, Memory, Situation, Unit
from nvdra_node.imex.replies import Snapshot

_LOG = log.get(__name__)


class SharedState:
    """Callers hold ``lock`` for every method and attribute but ``snapshot``, which is replaced as a whole."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self.lock = threading.RLock()
        self.fabric = Fabric()
        self.addresses = deps.addresses
        self.spec: FabricNodeSpec | None = None
        self.generation = 0
        self.holders: dict[str, Holder] = {}
        """By claim UID."""
        self.are_holders_known = False
        self.memory = Memory()
        status = UnitStatus(Unit())
        self.snapshot = Snapshot(
            situation=self.situation(status, ImexState.UNSET), memory=Memory(), is_seen=False
        )

    def load(self) -> None:
        """Read what an earlier supervisor of this boot stored. Raises FileError."""
        store = self._deps.store
        store.open()
        self.spec, self.generation = store.load_spec()
        stored = store.load(self._deps.boot_id)
        if stored is not None:
            self.memory = stored.memory
            self.holders = {holder.uid: holder for holder in stored.holders}
            self.are_holders_known = stored.are_holders_complete
            run = stored.memory.started
            _LOG.info("state of an earlier supervisor loaded", claims=len(stored.holders), run=run)

    def save(self) -> None:
        """Store memory and claims. Raises FileError."""
        self._deps.store.save(self._deps.boot_id, self.memory, self.holders.values())

    def remember(self, memory: Memory) -> None:
        """Store this memory. Raises FileError; then the earlier one stands."""
        before, self.memory = self.memory, memory
        try:
            self.save()
        except NvdraError:
            self.memory = before
            raise

    def situation(self, status: UnitStatus, imex: ImexState) -> Situation:
        """Input of ``decide``. A waiting claim that must be refused does not count, so nothing is started for it."""
        deps, known = self._deps, self.holders.values()
        counted = (h for h in known if h.is_admitted or not replies.refusal(h, self.spec, known))
        return Situation(
            now_s=deps.clock.monotonic(),
            policy=deps.policy,
            fabric=self.fabric,
            addresses=self.addresses,
            spec=self.spec,
            holders=tuple(counted),
            are_holders_known=self.are_holders_known,
            unit=status.unit,
            imex=imex,
            imex_problem=deps.ctl.last_error() if imex is ImexState.UNAVAILABLE else "",
            foreign=status.foreign,
            has_certificate=deps.has_certificate(),
        )
