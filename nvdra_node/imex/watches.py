"""The supervisor's sources: the controller's word, the GPUs' fabric, the daemon's peers. One thread each; run by
``app``.

Each tells the supervisor what is new and decides nothing. A source that fails keeps what was known before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from nvdra_core.api.fabric import FabricNodeSpec, FabricState, ImexState
from nvdra_core.errors import InvalidConfigError
from nvdra_core.kube.client import Client
from nvdra_core.kube.resources import Resource, Selector
from nvdra_core.kube.watch import Follow, Listing, follow
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.host.host import Host
from nvdra_node.imex import fabric, render
from nvdra_node.imex.ctl import CtlDoor, DomainView
from nvdra_node.imex.model import Fabric
from nvdra_node.imex.statefile import decode_spec
from nvdra_node.imex.supervisor import Supervisor

_LOG = log.get(__name__)

FABRIC_S = 30.0
UNSETTLED_FABRIC_S = 2.0
PEERS_S = 30.0
MISSING_PEERS_S = 2.0
"""How soon a daemon is asked for peers that were missing; each pause is longer by half, up to ``PEERS_S``."""
LASTING_S = 10.0
"""A peer that is missing so long is told of. Most have just joined and will be there in a moment."""
DOMAIN_S = 10.0
UNKNOWN_AFTER = 3
"""Questions in a row without an answer after which the last view counts no more: 35 s where each one hangs."""
POLL_S = 1.0


class SpecWatch:
    """Follows this node's FabricNode."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        node: str,
        take: Callable[[FabricNodeSpec | None, int], None],
    ) -> None:
        """``take`` gets each new spec with its generation; None: there is no object."""
        self._node = node
        self._take_spec = take
        selector = Selector(fields=f"metadata.name={node}")
        self._follow: Follow = follow(client, resource, selector=selector)

    def run(self) -> None:
        """Follow until ``stop``."""
        for news in self._follow:
            if isinstance(news, Listing):
                mine = [item for item in news.items if item["metadata"]["name"] == self._node]
                self._take(mine[0] if mine else None)
            else:
                self._take(None if news.type == "DELETED" else news.obj)

    def stop(self) -> None:
        """End ``run``, from any thread."""
        self._follow.stop()

    def _take(self, obj: dict[str, Any] | None) -> None:
        if obj is None:
            _LOG.info("the controller has no FabricNode for this node", v=1)
            self._take_spec(None, 0)
            return
        try:
            spec = decode_spec(obj.get("spec") or {})
        except InvalidConfigError as error:
            _LOG.warning("FabricNode is not understood; the last one counts", error)
            return
        self._take_spec(spec, int(obj["metadata"].get("generation") or 0))


class FabricWatch:
    """Looks at the GPUs' fabric now and then, and more often while it is not settled."""

    def __init__(
        self, host: Host, clock: Clock, supervisor: Supervisor, *, is_strict: bool = True
    ) -> None:
        self._is_strict = is_strict
        self._host = host
        self._clock = clock
        self._supervisor = supervisor
        self._last: Fabric | None = None
        self._wake = threading.Event()

    def trigger(self) -> None:
        """Look again soon."""
        self._wake.set()

    def run(self, stopping: threading.Event) -> None:
        """Look until ``stopping``."""
        while not stopping.is_set():
            self._wake.clear()
            pause_s = self.look()
            if self._clock.wait(stopping, 0.0):
                return
            self._clock.wait(self._wake, pause_s)

    def look(self) -> float:
        """One look; the seconds until the next."""
        seen = fabric.look(self._host, self._clock, is_strict=self._is_strict)
        found = fabric.believed(seen, self._last)
        if found != self._last:
            _LOG.info("fabric", state=found.state.value, clique=found.clique_id, why=found.message)
            self._last = found
            self._supervisor.set_fabric(found)
        is_settled = seen.state in (FabricState.COMPLETED, FabricState.NOT_SUPPORTED)
        return FABRIC_S if is_settled else UNSETTLED_FABRIC_S


class PeerWatch:
    """Asks the daemon for its peers, in a thread of its own: the question can hang."""

    def __init__(
        self,
        ctl: CtlDoor,
        clock: Clock,
        supervisor: Supervisor,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """``changed`` (cheap) is called with each other view: it may be worth a report."""
        self._changed = changed
        self._failures = 0
        self._incarnation = ""
        self._ctl = ctl
        self._clock = clock
        self._supervisor = supervisor
        self._asked_at_s = float("-inf")
        self._pause_s = MISSING_PEERS_S
        self._wanted: frozenset[int] = frozenset()
        self._absent_since_s: dict[int, float] = {}

    def run(self, stopping: threading.Event) -> None:
        """Ask until ``stopping``."""
        while not self._clock.wait(stopping, POLL_S):
            self.ask_if_due()

    def ask_if_due(self) -> None:
        """Ask when peers are missing, or were asked for long ago."""
        snapshot = self._supervisor.snapshot
        run, incarnation = snapshot.run, snapshot.situation.unit.invocation_id
        if run is None or snapshot.situation.imex is not ImexState.READY:
            self._forget()
            return
        if incarnation != self._incarnation:
            self._forget()  # a view of another run says nothing of this one
            self._incarnation = incarnation
        wanted = frozenset(render.peers(run, snapshot.situation.spec))
        if self._supervisor.snapshot.view is None or wanted != self._wanted:
            self._wanted, self._pause_s = wanted, MISSING_PEERS_S
        now_s = self._clock.monotonic()
        if now_s - self._asked_at_s < self._pause_s:
            return
        self._asked_at_s = now_s
        view = self._ctl.domain(run, Deadline(DOMAIN_S, self._clock))
        if view is None:
            self._fail()
            return
        self._failures = 0
        if view.own not in (None, run.slot):
            _LOG.warning("nvidia-imex took another id than its slot", slot=run.slot, id=view.own)
        self._set(replace(view, missing=self._lasting(wanted - view.connected)))

    def _set(self, view: DomainView | None) -> None:
        is_new = view != self._supervisor.snapshot.view
        self._supervisor.set_view(view)
        if is_new:
            self._changed()

    def _forget(self) -> None:
        self._set(None)
        self._absent_since_s.clear()
        self._failures = 0

    def _fail(self) -> None:
        """No view. One that was given before stands for a while: a machine may be busy."""
        self._failures += 1
        is_first = self._failures == 1
        self._pause_s = MISSING_PEERS_S if is_first else min(self._pause_s * 1.5, PEERS_S)
        if self._failures >= UNKNOWN_AFTER:
            self._set(DomainView(own=None, connected=frozenset(), is_unknown=True))

    def _lasting(self, absent: frozenset[int]) -> frozenset[int]:
        """Those that have been absent for a while; sets the pause until the next question."""
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
