"""Holds cliques to what the administrator says of racks: all nodes of a clique have the same rack label. Pure.

Which clique a node is in, only its hardware knows, and the node says so itself. Where Nodes have a label that the
node cannot write (NodeRestriction keeps kubelets from ``node-restriction.kubernetes.io/``), a node that was taken
over gets a slot and a certificate in cliques of its own rack alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from nvdra_cluster.decide.model import FabricView


def outsiders(nodes: Iterable[FabricView], racks: Mapping[str, str]) -> frozenset[str]:
    """Those of the nodes in one clique that are of another rack than most of them, or of none.

    ``racks``: the label's value of each Node that has one. Of two racks with as many nodes, that of the node which
    was there first counts.
    """
    views = sorted(nodes, key=lambda view: (view.created, view.name))
    votes = Counter(racks[view.name] for view in views if racks.get(view.name))
    # Counter keeps the order of first sight, and max the first of equals.
    rack = max(votes, key=lambda value: votes[value], default="")
    return frozenset(view.name for view in views if not rack or racks.get(view.name) != rack)
