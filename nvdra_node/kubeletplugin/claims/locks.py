"""Locks of one process: one per claim, one per hold. Used by ``transaction``.

A set of keys is granted as a whole, in the order of arrival: no starvation, and two sets cannot wait for each other.
The transaction takes a claim's key first and its holds second, never the reverse: no deadlock is possible.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from nvdra_core.errors import LockTimeoutError
from nvdra_core.runtime.clock import Clock, Deadline


class _Ticket:
    """A place in the queue."""

    __slots__ = ("granted", "keys", "owner")

    def __init__(self, keys: frozenset[str], owner: str) -> None:
        self.keys = keys
        self.owner = owner
        self.granted = threading.Event()


class Locks:
    """Named locks with a queue and deadlines. Thread safe; not re-entrant."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._owners: dict[str, str] = {}
        self._queue: list[_Ticket] = []

    @contextmanager
    def held(self, keys: Iterable[str], owner: str, deadline: Deadline) -> Iterator[None]:
        """Hold all ``keys``. ``owner`` appears in the errors of those who wait.

        Raises LockTimeoutError naming the holder when the deadline passes first.
        """
        ticket = _Ticket(frozenset(keys), owner)
        self._acquire(ticket, deadline)
        try:
            yield
        finally:
            with self._mutex:
                for key in ticket.keys:
                    del self._owners[key]
                self._grant()

    def _acquire(self, ticket: _Ticket, deadline: Deadline) -> None:
        with self._mutex:
            self._queue.append(ticket)
            self._grant()
        if self._clock.wait(ticket.granted, deadline.remaining_s()):
            return
        with self._mutex:
            if ticket.granted.is_set():
                return
            self._queue.remove(ticket)
            blockers = self._blockers(ticket)
            self._grant()
        raise LockTimeoutError(f"{ticket.owner}: waited too long for {blockers}")

    def _grant(self) -> None:
        """Grant each ticket whose keys are all free and not wanted by an earlier one. Caller holds the mutex."""
        wanted_earlier: set[str] = set()
        waiting: list[_Ticket] = []
        for ticket in self._queue:
            if ticket.keys.isdisjoint(self._owners) and ticket.keys.isdisjoint(wanted_earlier):
                self._owners.update(dict.fromkeys(ticket.keys, ticket.owner))
                ticket.granted.set()
            else:
                wanted_earlier |= ticket.keys
                waiting.append(ticket)
        self._queue = waiting

    def _blockers(self, ticket: _Ticket) -> str:
        held = sorted(key for key in ticket.keys if key in self._owners)
        if not held:
            return f"{', '.join(sorted(ticket.keys))}: others are queued before it"
        return ", ".join(f"{key}, held by {self._owners[key]}" for key in held)
