"""The ComputeDomainClique objects of a domain, one per clique with nodes of it, named as upstream names them. Pure.

Only the controller writes them, from the FabricNodes: deleted ones are created again, entries of nodes that left are
removed. Nothing of ours reads them; dashboards do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from nvdra_cluster.decide.domain.status import NO_INDEX
from nvdra_cluster.decide.model import CLIQUE_LABEL, DOMAIN_LABEL, CliqueView, DomainSnapshot
from nvdra_cluster.decide.writes import CLIQUES, Create, Delete, Merge, Write
from nvdra_cluster.settings import FabricSettings
from nvdra_core.api import API_VERSION, CliqueDaemon, ComputeDomainNode

_CLIQUE_ID = re.compile(r"[0-9a-z](?:[0-9a-z.-]{0,96}[0-9a-z])?")
"""Reported by nodes and used in names and labels."""


def is_valid_id(clique_id: str) -> bool:
    """Whether a clique id that a node reports may be used in names."""
    return len(clique_id) <= 63 and _CLIQUE_ID.fullmatch(clique_id) is not None


def reconcile(
    snapshot: DomainSnapshot, nodes: Iterable[ComputeDomainNode], settings: FabricSettings
) -> list[Write]:
    """Writes that bring the cliques in line with ``nodes`` of the domain's status."""
    wanted: dict[str, list[CliqueDaemon]] = {}
    for node in nodes:
        if node.clique_id and node.index != NO_INDEX:
            wanted.setdefault(node.clique_id, []).append(_daemon(node))
    domain = snapshot.domain
    there = {view.name: view for view in snapshot.cliques}
    writes: list[Write] = []
    for clique_id, daemons in sorted(wanted.items()):
        view = there.pop(f"{domain.uid}.{clique_id}", None)
        if view is None:
            writes.append(Create(CLIQUES, _body(domain.uid, clique_id, daemons, settings)))
        elif view.daemons != tuple(daemons):
            patch = {"metadata": {"uid": view.uid}, "daemons": msgspec.to_builtins(daemons)}
            writes.append(Merge(CLIQUES, settings.namespace, view.name, patch))
    return writes + remove(there.values(), settings)


def remove(views: Iterable[CliqueView], settings: FabricSettings) -> list[Write]:
    """Writes that delete these cliques."""
    return [Delete(CLIQUES, settings.namespace, view.name, view.uid) for view in views]


def _daemon(node: ComputeDomainNode) -> CliqueDaemon:
    return CliqueDaemon(
        node_name=node.name,
        ip_address=node.ip_address,
        clique_id=node.clique_id,
        index=node.index,
        status=node.status,
    )


def _body(
    domain_uid: str, clique_id: str, daemons: list[CliqueDaemon], settings: FabricSettings
) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "ComputeDomainClique",
        "metadata": {
            "name": f"{domain_uid}.{clique_id}",
            "namespace": settings.namespace,
            "labels": {DOMAIN_LABEL: domain_uid, CLIQUE_LABEL: clique_id},
        },
        "daemons": msgspec.to_builtins(daemons),
    }
