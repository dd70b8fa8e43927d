"""Connection to the IMEX supervisor: receives the node's state and reports the claims that have a record. Two threads;
run by ``app``.

The last view stands while the supervisor restarts, so that slices do not flap. All claims are reported after each
connection and periodically: the supervisor recovers lost state from them, and removes claims whose release it missed.
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
    """See the module. Safe for several threads."""

    def __init__(self, supervisor: SupervisorClient, clock: Clock) -> None:
        self._supervisor = supervisor
        self._clock = clock
        self._view = NodeView()
        self._has_view = threading.Event()
        self._changed: list[Callable[[], None]] = []
        self._connected = threading.Event()

    @property
    def view(self) -> NodeView:
        """The last state that the supervisor sent."""
        return self._view

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` (cheap) after each change of the view."""
        self._changed.append(changed)

    def close(self) -> None:
        """End the connection, so that ``watch`` returns."""
        self._supervisor.close()

    def wait_first(self, timeout_s: float) -> bool:
        """Wait for the first view; whether there is one."""
        return self._clock.wait(self._has_view, timeout_s)

    def watch(self, stopping: threading.Event) -> None:
        """Receive views until ``stopping``."""
        while not stopping.is_set():
            try:
                self._receive()
            except NotReadyError as error:
                if stopping.is_set():
                    return
                _LOG.info("IMEX supervisor connection lost; reconnecting", v=1, error=str(error))
            self._clock.wait(stopping, RECONNECT_S)

    def sync(self, known: Callable[[], list[HeldClaim]], stopping: threading.Event) -> None:
        """Report claims until ``stopping``: after each connection, again ``RECONNECT_S`` later, and every ``SYNC_S``.

        The supervisor removes a claim that two reports lack: the second one soon frees its domain.
        """
        pause_s = RECONNECT_S
        while not stopping.is_set():
            if self._connected.is_set():
                self._connected.clear()
                pause_s = RECONNECT_S
            try:
                self._supervisor.sync(known())
            except (NotReadyError, FileError) as error:
                _LOG.info("cannot report claims to the IMEX supervisor", v=1, error=str(error))
                self._clock.wait(stopping, RECONNECT_S)
                pause_s = RECONNECT_S
                continue
            left_s, pause_s = pause_s, SYNC_S
            while left_s > 0 and not stopping.is_set() and not self._connected.is_set():
                self._clock.wait(stopping, RECONNECT_S)
                left_s -= RECONNECT_S

    def _receive(self) -> None:
        """Receive views of one connection until it ends."""
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

    ``damaged``: UIDs of prepared claims without a usable record, whose domains only the supervisor may know.
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
                    "ignoring unreadable effect of a record", claim=record.name, error=repr(error)
                )
                join = _of_unknown_domain(record.uid)
            found.append(HeldClaim(join, record.state is RecordState.COMPLETED))
    return found


def _of_unknown_domain(uid: str) -> effects.JoinDomain:
    return effects.JoinDomain(domain_uid="", namespace="", name="", uid=uid)
