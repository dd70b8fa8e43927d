"""Queries the IMEX daemon for its peers. A thread of its own, as nvidia-imex-ctl -N can hang. Run by ``app``."""

from __future__ import annotations

import threading
from collections.abc import Callable

from msgspec.structs import replace

from nvdra_core.api.fabric import ImexState
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.imex.daemon import render
from nvdra_node.imex.daemon.ctl import CtlClient, ImexDomainStatus
from nvdra_node.imex.supervisor import Supervisor

_LOG = log.get(__name__)

PEERS_S = 30.0
MISSING_PEERS_S = 2.0
"""First interval of queries while peers are missing; grows by half up to ``PEERS_S``."""
LASTING_S = 10.0
"""A peer is reported as missing after this time. Most have just joined and connect within seconds."""
DOMAIN_S = 10.0
UNKNOWN_AFTER = 3
"""Consecutive failed queries after which the last view expires: 35 s when each one times out."""
POLL_S = 1.0


class PeerMonitor:
    """See the module."""

    def __init__(
        self,
        ctl: CtlClient,
        clock: Clock,
        supervisor: Supervisor,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """``changed`` (cheap) is called when the view has changed."""
        self._changed = changed
        self._failures = 0
        self._incarnation = ""
        self._ctl = ctl
        self._clock = clock
        self._supervisor = supervisor
        self._queried_at_s = float("-inf")
        self._pause_s = MISSING_PEERS_S
        self._wanted: frozenset[int] = frozenset()
        self._absent_since_s: dict[int, float] = {}

    def run(self, stopping: threading.Event) -> None:
        """Query until ``stopping``."""
        while not self._clock.wait(stopping, POLL_S):
            self.query_if_due()

    def query_if_due(self) -> None:
        """Query if peers are missing or the last query is old."""
        snapshot = self._supervisor.snapshot
        run, incarnation = snapshot.run, snapshot.situation.unit.invocation_id
        if run is None or snapshot.situation.imex is not ImexState.READY:
            self._forget()
            return
        if incarnation != self._incarnation:
            self._forget()  # the view is of another incarnation
            self._incarnation = incarnation
        wanted = frozenset(render.peers(run, snapshot.situation.spec))
        if self._supervisor.snapshot.view is None or wanted != self._wanted:
            self._wanted, self._pause_s = wanted, MISSING_PEERS_S
        now_s = self._clock.monotonic()
        if now_s - self._queried_at_s < self._pause_s:
            return
        self._queried_at_s = now_s
        view = self._ctl.domain(run, Deadline(DOMAIN_S, self._clock))
        if view is None:
            self._fail()
            return
        self._failures = 0
        if view.own not in (None, run.slot):
            _LOG.warning("nvidia-imex uses another id than its slot", slot=run.slot, id=view.own)
        self._set(replace(view, missing=self._lasting(wanted - view.connected)))

    def _set(self, view: ImexDomainStatus | None) -> None:
        is_new = view != self._supervisor.snapshot.view
        self._supervisor.set_view(view)
        if is_new:
            self._changed()

    def _forget(self) -> None:
        self._set(None)
        self._absent_since_s.clear()
        self._failures = 0

    def _fail(self) -> None:
        """Note a failed query. The last view stands for a few, as the machine may be busy."""
        self._failures += 1
        is_first = self._failures == 1
        self._pause_s = MISSING_PEERS_S if is_first else min(self._pause_s * 1.5, PEERS_S)
        if self._failures >= UNKNOWN_AFTER:
            self._set(ImexDomainStatus(own=None, connected=frozenset(), is_unknown=True))

    def _lasting(self, absent: frozenset[int]) -> frozenset[int]:
        """Peers absent for ``LASTING_S``; also sets the pause until the next query."""
        now_s, before = self._clock.monotonic(), self._absent_since_s
        self._absent_since_s = {slot: before.get(slot, now_s) for slot in absent}
        if not absent:
            self._pause_s = PEERS_S
        elif absent != before.keys():
            self._pause_s = MISSING_PEERS_S
        else:
            self._pause_s = min(self._pause_s * 1.5, PEERS_S)
        since = self._absent_since_s.items()
        return frozenset(slot for slot, since_s in since if now_s - since_s >= LASTING_S)
