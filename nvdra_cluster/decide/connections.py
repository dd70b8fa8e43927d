"""Whether the nodes of a domain are connected to each other. Pure. Called by ``status``.

``ready`` of a node's report says that its own IMEX is READY, which one that is alone is, too. A node of the domain is
ready only when its IMEX is connected to that of every other ready node of its clique: then a pod can import memory from
each of them. Nodes that are not ready count for nobody: they are named by their own reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from nvdra_cluster.decide import readiness
from nvdra_cluster.decide.model import FabricView, MemberView
from nvdra_cluster.decide.readiness import Readiness
from nvdra_cluster.settings import FabricSettings, ImexMode
from nvdra_core.api import FabricDomainStatus, FabricPeer

CONNECTING = "PeersConnecting"
"""Passing: a peer was started a moment ago, or the report of its connection is on its way."""
NAMED = 3
"""Peers that a message names; the rest is counted."""


def judge(
    members: Iterable[MemberView],
    judged: Mapping[str, Readiness],
    domain_uid: str,
    settings: FabricSettings,
) -> dict[str, Readiness]:
    """``judged``, with those not ready that lack a connection to a ready node of their clique."""
    if settings.mode is ImexMode.HOST_MANAGED:
        return dict(judged)  # the connections of the host's IMEX are not reported
    ready = {
        member.node: member.fabric
        for member in members
        if member.fabric is not None
        and member.fabric.status.clique_id
        and judged[member.node].is_ready
    }
    counts = Counter(view.status.clique_id for view in ready.values())
    found = dict(judged)
    for name, view in ready.items():
        report = readiness.report_of(view, domain_uid)
        wanted = counts[view.status.clique_id] - 1
        if report is not None and report.peers_connected < wanted:
            found[name] = _not_connected(view, report, wanted, ready.values())
    return found


def _not_connected(
    view: FabricView, report: FabricDomainStatus, wanted: int, ready: Iterable[FabricView]
) -> Readiness:
    clique_id = view.status.clique_id
    by_slot = {
        peer.spec.slot: peer
        for peer in ready
        if peer.spec.slot is not None and peer.status.clique_id == clique_id
    }
    texts = [
        _difference(view, by_slot[peer.slot], peer) for peer in report.peers if peer.slot in by_slot
    ]
    message = f"connected to {report.peers_connected} of {wanted} peers"
    if texts:
        more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
        message += f", not to {', '.join(texts[:NAMED])}{more}"
    elif report.message:
        message += f"; {report.message}"
    return Readiness(False, report.reason or CONNECTING, message)


def _difference(view: FabricView, other: FabricView, peer: FabricPeer) -> str:
    """A peer, and in what its IMEX differs from the node's."""
    here, there = view.status.imex.incarnation, other.status.imex.incarnation
    version = (here.version if here else "") or view.status.imex_version
    peer_version = (there.version if there else "") or peer.version or other.status.imex_version
    facts = []
    if version and peer_version and version != peer_version:
        facts.append(f"IMEX {peer_version}, here {version}")
    if here and there and 0 < here.slot_count != there.slot_count > 0:
        facts.append(f"node map of {there.slot_count} slots, here {here.slot_count}")
    return f"{other.name} ({'; '.join(facts)})" if facts else other.name
