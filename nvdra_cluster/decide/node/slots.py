"""Assigns the slots of a clique. Pure; called once per clique by ``nodespecs``.

A slot is the IMEX node ID, which the kernel fixes when IMEX starts. It is assigned once per clique and node, never
renumbered, and never assigned to another node while its holder may be alive. The FabricNode itself is the record; the
peers' lists and the slot that a running IMEX reports are copies from which a deleted record is restored. The lists name
a deleted node, without its address, until its slot may be reused, so that the next leader respects the delay. If no
peer remains to list the slot, reuse cannot confuse anyone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from nvdra_cluster.decide.model import FabricView
from nvdra_core.api import FabricSlot


class Priority(IntEnum):
    """Priority of a node's claim to a slot; the lower value wins."""

    RUNNING = 0
    """Its IMEX runs on the slot."""
    RECORDED = 1
    REPORTED = 2
    """Its IMEX runs on the slot, and the record was lost."""
    LISTED = 3
    """Only its peers list it, and its Node exists."""
    RESERVED = 4
    """Its Node was deleted recently; the machine may still run."""
    FORMER = 5
    """The node moved, is off, or is of another rack: the slot is reused when no free one is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CliqueSnapshot:
    """Everything the slots of one clique depend on."""

    clique_id: str
    nodes: tuple[FabricView, ...]
    """Every FabricNode that is or was in the clique, or is in the list of one that is."""
    existing: frozenset[str]
    """Names whose Node exists."""
    out_of_service: frozenset[str] = frozenset()
    outsiders: frozenset[str] = frozenset()
    """Nodes of another rack than the clique (``racks``)."""
    reserved: Mapping[str, int] = field(default_factory=dict)
    """Slots of recently deleted nodes, within the reuse delay."""
    slot_count: int
    """The setting."""
    has_shared_imex: bool = False
    """One IMEX serves all domains of the clique and runs from boot on."""

    @property
    def removed(self) -> frozenset[str]:
        """Nodes whose slot may be given to another node when no free one is left."""
        return self.out_of_service | self.outsiders


@dataclass(frozen=True, slots=True, kw_only=True)
class CliqueDecision:
    """The slot assignment."""

    slot_count: int
    slots: Mapping[str, int]
    """Of all members of the clique."""
    reserved: Mapping[str, int] = field(default_factory=dict)
    """Of recently deleted nodes: listed to peers without an address."""
    full: tuple[str, ...] = ()
    """Nodes without a slot."""


@dataclass(frozen=True, slots=True, order=True)
class _SlotClaim:
    slot: int
    priority: Priority
    created: str
    node: str


def home(view: FabricView) -> str:
    """The clique that decides the node's spec: the reported one, else the last assigned one."""
    return view.status.clique_id or view.spec.clique_id


def lists(nodes: Iterable[FabricView], clique_id: str) -> Iterable[tuple[FabricSlot, ...]]:
    """The distinct slot lists in the specs of a clique's nodes, by identity: ``control.state.cache`` interns them."""
    here = (view.spec.slots for view in nodes if view.spec.clique_id == clique_id)
    return {id(listed): listed for listed in here}.values()


def decide(snapshot: CliqueSnapshot) -> CliqueDecision:
    """Keep existing slots, assign free ones to nodes without, and name the nodes left without."""
    holders: dict[int, _SlotClaim] = {}
    for one in sorted(_claims(snapshot)):
        holders.setdefault(one.slot, one)
    kept = {one.node: one for one in holders.values()}
    count = _slot_count(snapshot, holders)
    full: list[str] = []
    for view in sorted(snapshot.nodes, key=lambda view: (view.created, view.name)):
        if not _is_member(snapshot, view):
            continue
        own = kept.get(view.name)
        slot = own.slot if own is not None else _choose(holders, count)
        if slot is None:
            full.append(view.name)
            continue
        if (previous := holders.get(slot)) is not None:
            kept.pop(previous.node, None)
        holders[slot] = kept[view.name] = _SlotClaim(
            slot, Priority.RECORDED, view.created, view.name
        )
    claims = holders.values()
    return CliqueDecision(
        slot_count=count,
        slots={one.node: one.slot for one in claims if one.priority < Priority.RESERVED},
        reserved={one.node: one.slot for one in claims if one.priority is Priority.RESERVED},
        full=tuple(full),
    )


def _is_member(snapshot: CliqueSnapshot, view: FabricView) -> bool:
    return (
        view.status.clique_id == snapshot.clique_id
        and view.name in snapshot.existing
        and view.name not in snapshot.removed
    )


def _choose(holders: Mapping[int, _SlotClaim], count: int) -> int | None:
    """The lowest free slot, else the lowest one of a FORMER claim."""
    free = next((slot for slot in range(count) if slot not in holders), None)
    if free is not None:
        return free
    reusable = (slot for slot in range(count) if holders[slot].priority is Priority.FORMER)
    return next(reusable, None)


def _claims(snapshot: CliqueSnapshot) -> Iterator[_SlotClaim]:
    """The best claim of each node, as no node holds two slots."""
    best: dict[str, _SlotClaim] = {}
    for one in (*_own_claims(snapshot), *_listed_claims(snapshot)):
        if one.node not in best or one.priority < best[one.node].priority:
            best[one.node] = one
    for node, slot in snapshot.reserved.items():
        best.setdefault(node, _SlotClaim(slot, Priority.RESERVED, "", node))
    yield from best.values()


def _own_claims(snapshot: CliqueSnapshot) -> Iterator[_SlotClaim]:
    limit = max(snapshot.slot_count, _recorded_count(snapshot))
    for view in snapshot.nodes:
        recorded = recorded_slot(view, snapshot.clique_id)
        reported = _running_slot(view, snapshot.clique_id)
        if reported is not None and reported >= limit:
            reported = None  # out of range
        if recorded is not None:
            yield _SlotClaim(
                recorded, _priority(snapshot, view, recorded, reported), view.created, view.name
            )
        elif reported is not None and view.name in snapshot.existing:
            yield _SlotClaim(reported, Priority.REPORTED, view.created, view.name)


def recorded_slot(view: FabricView, clique_id: str) -> int | None:
    """The slot in ``clique_id`` in the node's spec, current or former."""
    if view.spec.clique_id == clique_id and view.spec.slot is not None:
        return view.spec.slot
    former = (slot.index for slot in view.spec.former_slots if slot.clique_id == clique_id)
    return next(former, None)


def _running_slot(view: FabricView, clique_id: str) -> int | None:
    run = view.status.imex.incarnation
    if run is None or run.boot_id != view.status.boot_id or view.status.clique_id != clique_id:
        return None
    return run.slot if run.slot >= 0 else None


def _priority(
    snapshot: CliqueSnapshot, view: FabricView, recorded: int, reported: int | None
) -> Priority:
    if home(view) != snapshot.clique_id or view.name in snapshot.removed:
        return Priority.FORMER
    if view.name not in snapshot.existing:
        return Priority.RESERVED
    return Priority.RUNNING if reported == recorded else Priority.RECORDED


def _listed_claims(snapshot: CliqueSnapshot) -> Iterator[_SlotClaim]:
    known = {view.name: view for view in snapshot.nodes}
    for listed_slots in lists(snapshot.nodes, snapshot.clique_id):
        for entry in listed_slots:
            if entry.node_name not in snapshot.existing:
                continue
            listed = known.get(entry.node_name)
            is_elsewhere = listed is not None and home(listed) not in ("", snapshot.clique_id)
            is_removed = entry.node_name in snapshot.removed
            priority = Priority.FORMER if is_elsewhere or is_removed else Priority.LISTED
            yield _SlotClaim(entry.index, priority, "", entry.node_name)


def _slot_count(snapshot: CliqueSnapshot, holders: Mapping[int, _SlotClaim]) -> int:
    """Lines of nodes_config for the next IMEX, equal on all peers.

    A running domain keeps its own number (``nodespecs``). A shared IMEX, or a supervisor that does not report a number,
    cannot: while one runs, the clique's number stays.
    """
    recorded = _recorded_count(snapshot)
    runs = [view.status.imex.incarnation for view in _inside(snapshot)]
    is_fixed = any(run and (snapshot.has_shared_imex or not run.slot_count) for run in runs)
    wanted = recorded if is_fixed and recorded else snapshot.slot_count
    return max(wanted, max(holders, default=-1) + 1)


def _inside(snapshot: CliqueSnapshot) -> list[FabricView]:
    return [view for view in snapshot.nodes if view.spec.clique_id == snapshot.clique_id]


def _recorded_count(snapshot: CliqueSnapshot) -> int:
    """The slot count in the specs of the clique's nodes; 0 without any."""
    return max((view.spec.slot_count for view in _inside(snapshot)), default=0)
