"""The peers of a domain: connected, or not and why. Pure. Called by ``status``.

Only members of the domain count: with isolation ``channel`` one daemon is connected to the whole clique.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from nvdra_core.api.fabric import FabricPeer, PeerProblem, domain_named
from nvdra_node.imex.daemon import render
from nvdra_node.imex.replies import Snapshot

MAX_REPORTED = 32

MISSING = "PeersMissing"
UNKNOWN = "PeersUnknown"
_MISMATCHES = {
    PeerProblem.VERSION_MISMATCH: "ImexVersionMismatch",
    PeerProblem.NODE_MAP_MISMATCH: "NodeMapMismatch",
}


class Peers(msgspec.Struct, frozen=True, kw_only=True):
    """Peers of one domain."""

    known: Mapping[int, str]
    """Address of each other member, by slot."""
    connected: frozenset[int] = frozenset()
    problems: tuple[FabricPeer, ...] = ()
    """Unconnected peers, by slot."""


def of_domain(uid: str, snapshot: Snapshot) -> Peers:
    """The peers of a domain, by the last view of the daemon that serves it."""
    run, view, spec = snapshot.run, snapshot.view, snapshot.situation.spec
    if run is None or run.domain_uid not in ("", uid):
        return Peers(known={})
    known = render.peers(run, spec)
    domain = domain_named(spec, uid) if spec is not None else None
    if domain is not None and domain.members:
        known = {slot: address for slot, address in known.items() if slot in domain.members}
    if view is None:
        return Peers(known=known, problems=_unreachable(known))
    connected = view.connected & known.keys()
    problems = {peer.slot: peer for peer in view.problems}
    missing = sorted(known.keys() - connected)
    return Peers(
        known=known,
        connected=frozenset(connected),
        problems=tuple(problems.get(slot, FabricPeer(slot=slot)) for slot in missing),
    )


def _unreachable(slots: Iterable[int]) -> tuple[FabricPeer, ...]:
    return tuple(FabricPeer(slot=slot) for slot in sorted(slots))


def problem(peers: Peers, snapshot: Snapshot) -> tuple[str, str]:
    """Reason and message of a lasting problem; empty: none.

    A peer that just joined connects in a moment; one of another version or node map never does.
    """
    run, view = snapshot.run, snapshot.view
    if run is None or view is None or not peers.known:
        return "", ""
    if view.is_unknown:
        return (
            UNKNOWN,
            "nvidia-imex-ctl -N does not answer, so the state of peer connections is unknown",
        )
    for kind, reason in _MISMATCHES.items():
        refused = [peer for peer in peers.problems if peer.problem == kind.value]
        if refused:
            return reason, _refused(kind, refused, run.slot_count, snapshot)
    lasting = [peer for peer in peers.problems if peer.slot in view.missing]
    if not lasting:
        return "", ""
    return MISSING, f"not connected to {_named(lasting, snapshot)}"


def _refused(
    kind: PeerProblem, refused: list[FabricPeer], slot_count: int, snapshot: Snapshot
) -> str:
    names = _named(refused, snapshot)
    if kind is PeerProblem.NODE_MAP_MISMATCH:
        return (
            f"IMEX has a node map of {slot_count} slots here and another one on {names}; delete the pods of the domain"
            " on the nodes with the old one, so that their IMEX starts with the new one"
        )
    here = (snapshot.view.version if snapshot.view is not None else "") or "(unknown version)"
    return f"IMEX {here} runs here and another version on {names}; install the same on all nodes"


def _named(found: list[FabricPeer], snapshot: Snapshot) -> str:
    spec = snapshot.situation.spec
    slots = {slot.index: slot for slot in spec.slots} if spec is not None else {}
    texts = []
    for peer in found:
        slot = slots.get(peer.slot)
        where = f" ({slot.address}, {slot.node_name})" if slot is not None else ""
        version = f" with {peer.version}" if peer.version else ""
        texts.append(f"slot {peer.slot}{where}{version}")
    return ", ".join(texts)
