"""Whether the nodes of a domain are connected to each other. Pure. Called by ``status``.

A node reports ``ready`` when its own IMEX is READY, which is true of a single one too. Here a node is ready only when
its IMEX is connected to that of every other ready node of its clique, so that a pod can import memory from each of
them. Nodes that are not ready are left out: their own reason names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nvdra_cluster.decide.domain import readiness
from nvdra_cluster.decide.domain.readiness import Readiness
from nvdra_cluster.decide.model import FabricView, MemberView
from nvdra_cluster.settings import FabricSettings, ImexMode
from nvdra_core.api import FabricDomainStatus, FabricPeer

CONNECTING = "PeersConnecting"
"""Transient: a peer has just started, or the report of its connection is under way."""
NAMED = 3
"""Peers named in a message; the others are counted."""


def judge(
    members: Iterable[MemberView],
    judged: Mapping[str, Readiness],
    domain_uid: str,
    settings: FabricSettings,
) -> dict[str, Readiness]:
    """``judged``, with nodes that lack a connection to a ready node of their clique as not ready."""
    if settings.mode is ImexMode.HOST_MANAGED:
        return dict(judged)  # the connections of the host's IMEX are not reported
    ready = [
        member.fabric
        for member in members
        if member.fabric is not None
        and member.fabric.status.clique_id
        and judged[member.node].is_ready
    ]
    cliques: dict[str, dict[int | None, FabricView]] = {}
    for view in ready:
        cliques.setdefault(view.status.clique_id, {})[view.spec.slot] = view
    found = dict(judged)
    for view in ready:
        report = readiness.report_of(view, domain_uid)
        if report is not None:
            lacking = _lacking(view, report, cliques[view.status.clique_id])
            found[view.name] = lacking or judged[view.name]
    return found


def _lacking(
    view: FabricView, report: FabricDomainStatus, ready: Mapping[int | None, FabricView]
) -> Readiness | None:
    """The node's missing connections to ready nodes of its clique (by slot), as a readiness; None when it has all.

    Counted connections may be to other peers, so peers that it names as missing count too.
    """
    wanted = len(ready) - 1
    missing = [peer for peer in report.peers if peer.slot in ready]
    connected = min(report.peers_connected, wanted - len(missing))
    if connected >= wanted:
        return None
    message = f"connected to {max(connected, 0)} of {wanted} peers"
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        texts = [_difference(view, ready[peer.slot], peer) for peer in missing[:NAMED]]
        message += f", not to {', '.join(texts)}{more}"
    elif report.message:
        message += f"; {report.message}"
    return Readiness(False, report.reason or CONNECTING, message)


def _difference(view: FabricView, other: FabricView, peer: FabricPeer) -> str:
    """A peer, and how its IMEX differs from the node's."""
    here, there = view.status.imex.incarnation, other.status.imex.incarnation
    version = (here.version if here else "") or view.status.imex_version
    peer_version = (there.version if there else "") or peer.version or other.status.imex_version
    facts = []
    if version and peer_version and version != peer_version:
        facts.append(f"IMEX {peer_version}, here {version}")
    if here and there and 0 < here.slot_count != there.slot_count > 0:
        facts.append(f"node map of {there.slot_count} slots, here {here.slot_count}")
    return f"{other.name} ({'; '.join(facts)})" if facts else other.name
