"""Builders of the objects that these tests send."""

from __future__ import annotations

from typing import Any

DRIVER = "gpu.nvidia.com"


def a_device(name: str = "gpu-0", **fields: Any) -> dict[str, Any]:
    return {"name": name, "attributes": {"index": {"int": 0}}, **fields}


def a_slice(name: str = "slice", node: str = "node-a", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": name},
        "spec": {
            "driver": DRIVER,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [a_device()],
            **spec,
        },
    }


def owned_slice(name: str = "slice", node: str = "node-a", **spec: Any) -> dict[str, Any]:
    obj = a_slice(name, node, **spec)
    owner = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": "1", "controller": True}
    obj["metadata"]["ownerReferences"] = [owner]
    return obj


def a_claim(name: str = "claim", namespace: str = "default", count: int = 1) -> dict[str, Any]:
    exactly = {"deviceClassName": DRIVER, "allocationMode": "ExactCount", "count": count}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}},
    }


def an_allocation(*devices: str, node: str = "node-a", driver: str = DRIVER) -> dict[str, Any]:
    results = [
        {"request": "gpu", "driver": driver, "pool": node, "device": device} for device in devices
    ]
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    return {
        "devices": {"results": results},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]},
    }


def a_device_status(
    device: str, *, ready: str = "True", pool: str = "node-a", **more: Any
) -> dict[str, Any]:
    condition = {
        "type": "Ready",
        "status": ready,
        "reason": "Prepared",
        "message": "",
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }
    return {"driver": DRIVER, "pool": pool, "device": device, "conditions": [condition], **more}
