"""Which FabricNodes there should be: one for each Node that offers compute-domain devices. Pure.

The object belongs to the Node, so it goes with it. A node cannot make its own: all it may write is
its status.
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
    """The write, if any, that makes this node's FabricNode be there or not. ``slot``: the clique and slot
    that it had a short time ago, and still has: its machine may run on without a word.

    A FabricNode stays while its Node exists, also when the node's plugin is stopped for a while.
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
