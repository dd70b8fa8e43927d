"""The standing connection to the IMEX supervisor: what it tells, and which claims have a record. Run by ``app``.

When the supervisor restarts, the last view stands: slices do not flap. It is told all claims after each new connection
and now and then, so that it knows them although its own state was lost, and drops those whose release it missed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from nvdra_core.errors import FileError, NotReadyError, RecordError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock
from nvdra_node.checkpoint.model import Record, RecordState
from nvdra_node.computedomain import effects
from nvdra_node.computedomain.model import NodeView
from nvdra_node.computedomain.supervisor_client import HeldClaim, SupervisorClient

_LOG = log.get(__name__)

RECONNECT_S = 1.0
SYNC_S = 30.0


class SupervisorConnection:
    """The view and its one writer. Safe for several threads."""

    def __init__(self, supervisor: SupervisorClient, clock: Clock) -> None:
        self._supervisor = supervisor
        self._clock = clock
        self._view = NodeView()
        self._has_view = threading.Event()
        self._changed: list[Callable[[], None]] = []
        self._connected = threading.Event()

    @property
    def view(self) -> NodeView:
        """What the supervisor told last."""
        return self._view

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` (cheap) after each word that is another one."""
        self._changed.append(changed)

    def close(self) -> None:
        """End the connection, so that ``watch`` returns."""
        self._supervisor.close()

    def wait_first(self, timeout_s: float) -> bool:
        """Wait until the node is known; whether it is."""
        return self._clock.wait(self._has_view, timeout_s)

    def watch(self, stopping: threading.Event) -> None:
        """Listen until ``stopping``."""
        while not stopping.is_set():
            try:
                self._listen()
            except NotReadyError as error:
                if stopping.is_set():
                    return
                _LOG.info("no word of the supervisor", v=1, error=str(error))
            self._clock.wait(stopping, RECONNECT_S)

    def sync(self, known: Callable[[], list[HeldClaim]], stopping: threading.Event) -> None:
        """Tell claims (``held``) until ``stopping``: after each new connection, soon once more, and every ``SYNC_S``.

        Whom the supervisor misses twice is gone, and must not hold the node for long.
        """
        pause_s = RECONNECT_S
        while not stopping.is_set():
            if self._connected.is_set():
                self._connected.clear()
                pause_s = RECONNECT_S
            try:
                self._supervisor.sync(known())
            except (NotReadyError, FileError) as error:
                _LOG.info("the supervisor is not told the claims", v=1, error=str(error))
                self._clock.wait(stopping, RECONNECT_S)
                pause_s = RECONNECT_S
                continue
            left_s, pause_s = pause_s, SYNC_S
            while left_s > 0 and not stopping.is_set() and not self._connected.is_set():
                self._clock.wait(stopping, RECONNECT_S)
                left_s -= RECONNECT_S

    def _listen(self) -> None:
        """One connection, from its first word to its end."""
        is_first = True
        for view in self._supervisor.watch():
            if is_first:
                self._connected.set()
                is_first = False
            self._take(view)

    def _take(self, view: NodeView) -> None:
        before, self._view = self._view, view
        if view.fabric_state:
            self._has_view.set()
        if view == before:
            return
        for changed in self._changed:
            changed()


def held_claims(
    records: Iterable[Record], boot_id: str, damaged: Iterable[str] = ()
) -> list[HeldClaim]:
    """The claims that hold a domain in this boot. Pure.

    ``damaged``: UIDs of claims that are prepared and have no usable record; the supervisor may know their domains.
    """
    found = [HeldClaim(_of_unknown_domain(uid), True) for uid in damaged]
    for record in records:
        if record.boot_id != boot_id:
            continue
        for effect in record.effects:
            try:
                join = effects.decode(effect)
            except (RecordError, KeyError, TypeError) as error:
                _LOG.warning(
                    "a record's effect is not understood", claim=record.name, error=repr(error)
                )
                join = _of_unknown_domain(record.uid)
            found.append(HeldClaim(join, record.state is RecordState.COMPLETED))
    return found


def _of_unknown_domain(uid: str) -> effects.JoinDomain:
    return effects.JoinDomain(domain_uid="", namespace="", name="", uid=uid)
