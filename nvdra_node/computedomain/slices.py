"""The supervisor's state -> pool with this node's channel. Pure.

Device, ``type`` and ``id`` are upstream's; the clique is added, so that a claim can select one clique
(``matchAttribute: compute-domain.nvidia.com/cliqueID``). Upstream's ``daemon-0`` is not published: it is for pods that
run nvidia-imex, which systemd runs here. Nothing is published until the fabric is settled: a pod would wait on this
node that could run elsewhere.
"""

from __future__ import annotations

from typing import Any

from nvdra_node.computedomain.model import CHANNEL_DEVICE, NodeView
from nvdra_node.kubeletplugin.driver import DeviceHealth, Health, Pool

MAX_MESSAGE = 1024
_PROBLEMS = frozenset(
    {"ImexFailed", "ImexHeld", "ImexUnresponsive", "SlotChanged", "FabricFailed", "AddressLost"}
    | {"GpuRecovery", "ImexRestarted"}
)
"""Reasons that are problems. With the last two, claims may start all the same."""


def build(view: NodeView, *, is_shared: bool) -> Pool:
    """The pool. ``is_shared``: several claims may be allocated the channel (resource.k8s.io consumable capacity)."""
    health = (_health(view),)
    if not view.is_settled:
        return Pool(health=health)
    attributes: dict[str, Any] = {"type": {"string": "channel"}, "id": {"int": 0}}
    if view.clique_id:
        attributes["cliqueID"] = {"string": view.clique_id}
        attributes["clusterUUID"] = {"string": view.cluster_uuid}
    device: dict[str, Any] = {"name": CHANNEL_DEVICE, "attributes": attributes}
    if is_shared:
        device["allowMultipleAllocations"] = True
    return Pool(devices=(device,), health=health)


def _health(view: NodeView) -> DeviceHealth:
    if not view.fabric_state:
        return DeviceHealth(
            device=CHANNEL_DEVICE, health=Health.UNKNOWN, message=view.fabric_message
        )
    if view.fabric_state == "Failed":
        message = f"NVLink fabric failed: {view.fabric_message}"[:MAX_MESSAGE]
        return DeviceHealth(device=CHANNEL_DEVICE, health=Health.UNHEALTHY, message=message)
    for uid, domain in sorted(view.domains.items()):
        if domain.reason in _PROBLEMS:
            message = f"ComputeDomain {uid}: {domain.reason}: {domain.message}"[:MAX_MESSAGE]
            return DeviceHealth(device=CHANNEL_DEVICE, health=Health.UNHEALTHY, message=message)
    return DeviceHealth(device=CHANNEL_DEVICE, health=Health.HEALTHY)
