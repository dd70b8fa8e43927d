"""Indexes of the cache, and comparison of views. Used by ``cache``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

import msgspec

from nvdra_cluster.decide.model import FabricView, NodeView
from nvdra_core.api import FabricSlot


class Versioned(Protocol):
    """A view with identity and version."""

    @property
    def uid(self) -> str:
        """UID of the object."""

    @property
    def version(self) -> int:
        """resourceVersion."""


class Multimap:
    """Sets of names by key, without empty sets."""

    def __init__(self) -> None:
        self._sets: dict[str, set[str]] = {}

    def add(self, key: str, name: str) -> None:
        """Add ``name`` to ``key``."""
        self._sets.setdefault(key, set()).add(name)

    def discard(self, key: str, name: str) -> None:
        """Remove ``name`` from ``key``."""
        names = self._sets.get(key)
        if names is not None:
            names.discard(name)
            if not names:
                del self._sets[key]

    def get(self, key: str) -> set[str]:
        """The names of ``key``; read only."""
        return self._sets.get(key, set())

    def move(self, name: str, old: Iterable[str], new: Iterable[str]) -> None:
        """Move ``name`` from the keys ``old`` to the keys ``new``."""
        before, after = set(old), set(new)
        for key in before - after:
            self.discard(key, name)
        for key in after - before:
            self.add(key, name)


class SharedLists:
    """Interns slot lists: all nodes of a clique have the same list, which is kept once."""

    def __init__(self) -> None:
        self._slots: dict[str, tuple[FabricSlot, ...]] = {}

    def share(self, view: FabricView) -> FabricView:
        """``view`` with the interned list."""
        known = self._slots.setdefault(view.spec.clique_id, view.spec.slots)
        if known is view.spec.slots:
            return view
        if known != view.spec.slots:
            self._slots[view.spec.clique_id] = view.spec.slots
            return view
        return replace(view, spec=msgspec.structs.replace(view.spec, slots=known))


def is_another(view: NodeView | Versioned | None, uid: str) -> bool:
    """Whether the object has another UID: a new object of the same name."""
    return view is not None and bool(uid) and view.uid != uid


def is_same(old: FabricView, new: FabricView) -> bool:
    """Whether two states of a FabricNode are equal but for the heartbeat."""
    if old.uid != new.uid or old.spec != new.spec or old.owner_uid != new.owner_uid:
        return False
    if old.status.heartbeat_time == new.status.heartbeat_time:
        return old.status == new.status
    same_beat = msgspec.structs.replace(new.status, heartbeat_time=old.status.heartbeat_time)
    return old.status == same_beat


def cliques_of(view: FabricView | None) -> set[str]:
    """The cliques that a node is or was in."""
    if view is None:
        return set()
    found = {view.status.clique_id, view.spec.clique_id}
    found |= {slot.clique_id for slot in view.spec.former_slots}
    return found - {""}


def domains_of(view: FabricView | None) -> set[str]:
    """The domains that a node reports."""
    return {report.uid for report in view.status.domains} if view is not None else set()


def named_domains(view: FabricView | None) -> set[str]:
    """The domains that a node's spec names."""
    return {domain.uid for domain in view.spec.domains} if view is not None else set()
