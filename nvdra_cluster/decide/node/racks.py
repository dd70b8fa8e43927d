"""Restricts a clique to nodes with the same rack label. Pure.

The clique comes from the node's own report. Where Nodes have a label that the node cannot write (NodeRestriction
protects ``node-restriction.kubernetes.io/`` from kubelets), a compromised node gets a slot and a certificate in
cliques of its own rack only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from nvdra_cluster.decide.model import FabricView


def outsiders(nodes: Iterable[FabricView], racks: Mapping[str, str]) -> frozenset[str]:
    """Nodes of a clique whose rack is not that of the majority, or that have none.

    ``racks``: the label's value of each labelled Node. In a tie the rack of the oldest FabricNode counts.
    """
    views = sorted(nodes, key=lambda view: (view.created, view.name))
    votes = Counter(racks[view.name] for view in views if racks.get(view.name))
    # Counter keeps the order of first sight, and max the first of equals.
    rack = max(votes, key=lambda value: votes[value], default="")
    return frozenset(view.name for view in views if not rack or racks.get(view.name) != rack)
