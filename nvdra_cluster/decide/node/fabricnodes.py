"""Which FabricNodes exist: one for each Node that publishes compute-domain devices. Pure.

The Node owns it, so both are deleted together. A node cannot create its own: it may write only the status.
"""

from __future__ import annotations

from nvdra_cluster.decide.model import FabricView, NodeView
from nvdra_cluster.decide.writes import FABRIC_NODES, Create, Delete, Write
from nvdra_core.api import FABRIC_API_VERSION, FABRIC_NODE_KIND


def reconcile(
    name: str,
    node: NodeView | None,
    fabric: FabricView | None,
    *,
    has_devices: bool,
    slot: tuple[str, int] | None = None,
) -> list[Write]:
    """The write, if any, that creates or deletes the node's FabricNode.

    ``slot``: clique and slot that are reserved for the node, as its IMEX may still run. A FabricNode stays while its
    Node exists, even when the node's plugin is stopped.
    """
    if node is None:
        return [] if fabric is None else [Delete(FABRIC_NODES, "", name, fabric.uid)]
    if fabric is not None:
        is_of_another = bool(fabric.owner_uid) and fabric.owner_uid != node.uid
        return [Delete(FABRIC_NODES, "", name, fabric.uid)] if is_of_another else []
    if not has_devices:
        return []
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.uid}
    body: dict[str, object] = {
        "apiVersion": FABRIC_API_VERSION,
        "kind": FABRIC_NODE_KIND,
        "metadata": {"name": name, "ownerReferences": [owner]},
    }
    if slot is not None:
        body["spec"] = {"cliqueID": slot[0], "slot": slot[1]}
    return [Create(FABRIC_NODES, body)]
