"""Locks in this process: one per claim, one per physical thing that a claim holds. Used by ``transaction``.

A set of keys is taken as a whole or waited for as a whole, in the order of arrival, so nobody starves and two sets
cannot wait for each other. The transaction takes a claim's key first and its holds second, and never a claim's key
while it has holds: no cycle is possible.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from nvdra_core.errors import LockTimeoutError
from nvdra_core.runtime.clock import Clock, Deadline


class _Ticket:
    """A place in the queue. ``event`` is for who must wait, which is rare."""

    __slots__ = ("event", "is_granted", "keys", "owner")

    def __init__(self, keys: frozenset[str], owner: str) -> None:
        self.keys = keys
        self.owner = owner
        self.is_granted = False
        self.event: threading.Event | None = None


class Locks:
    """Named locks with a queue and deadlines. Thread safe; not re-entrant."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._owners: dict[str, str] = {}
        self._queue: list[_Ticket] = []

    @contextmanager
    def held(self, keys: Iterable[str], owner: str, deadline: Deadline) -> Iterator[None]:
        """Hold all ``keys``. ``owner`` is for the messages of those who wait.

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
            if ticket.is_granted:
                return
            granted = ticket.event = threading.Event()
        if self._clock.wait(granted, deadline.remaining_s()):
            return
        with self._mutex:
            if granted.is_set():
                return
            self._queue.remove(ticket)
            in_the_way = self._in_the_way(ticket)
            self._grant()
        raise LockTimeoutError(f"{ticket.owner}: waited too long for {in_the_way}")

    def _grant(self) -> None:
        """Hand keys to whoever is first in the queue for all of theirs. Caller holds the mutex."""
        wanted_earlier: set[str] = set()
        waiting: list[_Ticket] = []
        for ticket in self._queue:
            if ticket.keys.isdisjoint(self._owners) and ticket.keys.isdisjoint(wanted_earlier):
                self._owners.update(dict.fromkeys(ticket.keys, ticket.owner))
                ticket.is_granted = True
                if ticket.event is not None:
                    ticket.event.set()
            else:
                wanted_earlier |= ticket.keys
                waiting.append(ticket)
        self._queue = waiting

    def _in_the_way(self, ticket: _Ticket) -> str:
        held = sorted(key for key in ticket.keys if key in self._owners)
        if not held:
            return f"{', '.join(sorted(ticket.keys))}: others are queued before it"
        return ", ".join(f"{key}, held by {self._owners[key]}" for key in held)
