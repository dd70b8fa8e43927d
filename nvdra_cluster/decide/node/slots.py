"""Which slot of its clique a node has. Pure; called once for a clique by ``nodespecs``.

A slot is the IMEX node ID, which the kernel fixes when IMEX starts: so it is given once per (clique,
node), never renumbered, and never given to another node while its holder may still be alive. The
record is the FabricNode itself; the lists of the peers and the slot that a running IMEX reports are
second and third copies, from which a record that somebody deleted is restored. Those lists go on to name
a node that was deleted, without its address, until its slot is cold: so that also a leader that comes in
between keeps others off it. Where nobody stays who could list it, nobody stays who could mistake it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from nvdra_cluster.decide.model import FabricView
from nvdra_core.api import FabricSlot


class Claim(IntEnum):
    """How good a node's right to a slot is; the lower one wins when two nodes have the same slot."""

    RUNNING = 0
    """Its IMEX runs on this slot now."""
    RECORDED = 1
    REPORTED = 2
    """It runs on this slot, and the record was lost."""
    LISTED = 3
    """Only its peers remember it, and its Node exists."""
    HELD = 4
    """Its Node was deleted a short time ago; the machine may still be running."""
    FORMER = 5
    """It is known to be elsewhere, off, or of another rack: others may have the slot once no free one is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CliqueSnapshot:
    """All that the slots of one clique depend on."""

    clique_id: str
    nodes: tuple[FabricView, ...]
    """Every FabricNode that is in the clique, was in it, or is in the list of one that is."""
    existing: frozenset[str]
    """Names whose Node exists."""
    out_of_service: frozenset[str] = frozenset()
    outsiders: frozenset[str] = frozenset()
    """Names that are of another rack than the clique (``racks``)."""
    reserved: Mapping[str, int] = field(default_factory=dict)
    """Slots of nodes that were deleted lately."""
    slot_count: int
    """As it is set."""
    has_shared_imex: bool = False
    """One IMEX serves all domains of the clique, and runs from boot on."""

    @property
    def removed(self) -> frozenset[str]:
        """Names that keep a slot only while nobody else needs it."""
        return self.out_of_service | self.outsiders


@dataclass(frozen=True, slots=True, kw_only=True)
class CliqueDecision:
    """Who has which slot."""

    slot_count: int
    slots: Mapping[str, int]
    """Of all that take part in the clique."""
    reserved: Mapping[str, int] = field(default_factory=dict)
    """Of nodes that were deleted lately: peers shall remember them, and not look for them."""
    full: tuple[str, ...] = ()
    """Nodes for which there was none."""


@dataclass(frozen=True, slots=True, order=True)
class _Right:
    slot: int
    claim: Claim
    created: str
    node: str


def home(view: FabricView) -> str:
    """The clique that decides about the node: the one it reports, else the one it was last given."""
    return view.status.clique_id or view.spec.clique_id


def lists(nodes: Iterable[FabricView], clique_id: str) -> Iterable[tuple[FabricSlot, ...]]:
    """The lists of slots in the specs of a clique's nodes. One that several share (see ``control.state.cache``)
    comes once: of a thousand nodes each has a list of a thousand.
    """
    here = (view.spec.slots for view in nodes if view.spec.clique_id == clique_id)
    return {id(listed): listed for listed in here}.values()


def decide(snapshot: CliqueSnapshot) -> CliqueDecision:
    """Keep what is there, give free slots to nodes without, say who must wait."""
    holders: dict[int, _Right] = {}
    for right in sorted(_rights(snapshot)):
        holders.setdefault(right.slot, right)
    kept = {right.node: right for right in holders.values()}
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
        if (ousted := holders.get(slot)) is not None:
            kept.pop(ousted.node, None)
        holders[slot] = kept[view.name] = _Right(slot, Claim.RECORDED, view.created, view.name)
    rights = holders.values()
    return CliqueDecision(
        slot_count=count,
        slots={right.node: right.slot for right in rights if right.claim < Claim.HELD},
        reserved={right.node: right.slot for right in rights if right.claim is Claim.HELD},
        full=tuple(full),
    )


def _is_member(snapshot: CliqueSnapshot, view: FabricView) -> bool:
    return (
        view.status.clique_id == snapshot.clique_id
        and view.name in snapshot.existing
        and view.name not in snapshot.removed
    )


def _choose(holders: Mapping[int, _Right], count: int) -> int | None:
    """The lowest free slot, else the lowest of a node that is known to be elsewhere."""
    free = next((slot for slot in range(count) if slot not in holders), None)
    if free is not None:
        return free
    given_up = (slot for slot in range(count) if holders[slot].claim is Claim.FORMER)
    return next(given_up, None)


def _rights(snapshot: CliqueSnapshot) -> Iterator[_Right]:
    """For every node the best right it has, and no other: nobody holds two slots."""
    best: dict[str, _Right] = {}
    for right in (*_own_rights(snapshot), *_listed_rights(snapshot)):
        if right.node not in best or right.claim < best[right.node].claim:
            best[right.node] = right
    for node, slot in snapshot.reserved.items():
        best.setdefault(node, _Right(slot, Claim.HELD, "", node))
    yield from best.values()


def _own_rights(snapshot: CliqueSnapshot) -> Iterator[_Right]:
    limit = max(snapshot.slot_count, _recorded_count(snapshot))
    for view in snapshot.nodes:
        recorded = recorded_slot(view, snapshot.clique_id)
        reported = _running_slot(view, snapshot.clique_id)
        if reported is not None and reported >= limit:
            reported = None  # there is no such slot
        if recorded is not None:
            yield _Right(
                recorded, _claim(snapshot, view, recorded, reported), view.created, view.name
            )
        elif reported is not None and view.name in snapshot.existing:
            yield _Right(reported, Claim.REPORTED, view.created, view.name)


def recorded_slot(view: FabricView, clique_id: str) -> int | None:
    """The slot in ``clique_id`` that the node's own spec records, also from before it left."""
    if view.spec.clique_id == clique_id and view.spec.slot is not None:
        return view.spec.slot
    former = (slot.index for slot in view.spec.former_slots if slot.clique_id == clique_id)
    return next(former, None)


def _running_slot(view: FabricView, clique_id: str) -> int | None:
    run = view.status.imex.incarnation
    if run is None or run.boot_id != view.status.boot_id or view.status.clique_id != clique_id:
        return None
    return run.slot if run.slot >= 0 else None


def _claim(
    snapshot: CliqueSnapshot, view: FabricView, recorded: int, reported: int | None
) -> Claim:
    if home(view) != snapshot.clique_id or view.name in snapshot.removed:
        return Claim.FORMER
    if view.name not in snapshot.existing:
        return Claim.HELD
    return Claim.RUNNING if reported == recorded else Claim.RECORDED


def _listed_rights(snapshot: CliqueSnapshot) -> Iterator[_Right]:
    known = {view.name: view for view in snapshot.nodes}
    for listed_slots in lists(snapshot.nodes, snapshot.clique_id):
        for entry in listed_slots:
            if entry.node_name not in snapshot.existing:
                continue
            listed = known.get(entry.node_name)
            is_elsewhere = listed is not None and home(listed) not in ("", snapshot.clique_id)
            is_removed = entry.node_name in snapshot.removed
            claim = Claim.FORMER if is_elsewhere or is_removed else Claim.LISTED
            yield _Right(entry.index, claim, "", entry.node_name)


def _slot_count(snapshot: CliqueSnapshot, holders: Mapping[int, _Right]) -> int:
    """Lines of nodes_config for the next IMEX: peers must have as many as each other.

    A domain that runs keeps its own number (``nodespecs``). One IMEX for all domains cannot, nor can a supervisor
    that does not know the number of a domain: as long as one runs the clique's number stays.
    """
    recorded = _recorded_count(snapshot)
    runs = [view.status.imex.incarnation for view in _inside(snapshot)]
    is_fixed = any(run and (snapshot.has_shared_imex or not run.slot_count) for run in runs)
    wanted = recorded if is_fixed and recorded else snapshot.slot_count
    return max(wanted, max(holders, default=-1) + 1)


def _inside(snapshot: CliqueSnapshot) -> list[FabricView]:
    return [view for view in snapshot.nodes if view.spec.clique_id == snapshot.clique_id]


def _recorded_count(snapshot: CliqueSnapshot) -> int:
    """What the nodes of the clique were told; 0 when none was told anything."""
    return max((view.spec.slot_count for view in _inside(snapshot)), default=0)
