"""Builders of the objects that these tests send."""

from __future__ import annotations

from typing import Any

from tests.lib import objects
from tests.lib.objects import GPU_DRIVER as DRIVER
from tests.lib.objects import Object
from tests.lib.objects import device as a_device

__all__ = [
    "DRIVER",
    "a_claim",
    "a_device",
    "a_device_status",
    "a_slice",
    "an_allocation",
    "owned_slice",
]


def a_slice(name: str = "slice", node: str = "node-a", **spec: Any) -> Object:
    return objects.resource_slice(name, node, **spec)


def owned_slice(name: str = "slice", node: str = "node-a", **spec: Any) -> Object:
    return objects.resource_slice(name, node, owner_uid="1", **spec)


def a_claim(name: str = "claim", namespace: str = "default", count: int = 1) -> Object:
    request = objects.request(allocationMode="ExactCount", count=count)
    return objects.claim(name, namespace, request)


def an_allocation(*devices: str, node: str = "node-a", driver: str = DRIVER) -> Object:
    results = [objects.result(device, node, driver=driver) for device in devices]
    return objects.allocation(*results, node=node)


def a_device_status(
    device: str, *, ready: str = "True", pool: str = "node-a", **more: Any
) -> Object:
    condition = {
        "type": "Ready",
        "status": ready,
        "reason": "Prepared",
        "message": "",
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }
    return {"driver": DRIVER, "pool": pool, "device": device, "conditions": [condition], **more}
