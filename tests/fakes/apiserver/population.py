"""Allocated claims in bulk, as the scheduler would leave them. Pure: a pattern in, objects out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimPattern:
    """``count`` claims ``<prefix>-<n>``; claim n gets ``devices_per_claim`` devices from ``devices``, in turn.

    ``config`` are whole entries of ``allocation.devices.config``. ``pool`` is the node unless given.
    """

    count: int
    node: str
    devices: list[str]
    driver: str = "gpu.nvidia.com"
    device_class: str = "gpu.nvidia.com"
    namespace: str = "default"
    prefix: str = "claim"
    pool: str = ""
    devices_per_claim: int = 1
    config: list[JsonObject] = field(default_factory=list)


def claims(pattern: ClaimPattern) -> list[JsonObject]:
    """The claims of a pattern, allocated to its node and reserved for a pod each."""
    return [_claim(pattern, number) for number in range(pattern.count)]


def _claim(pattern: ClaimPattern, number: int) -> JsonObject:
    name = f"{pattern.prefix}-{number}"
    size = pattern.devices_per_claim
    chosen = [
        pattern.devices[(number * size + index) % len(pattern.devices)] for index in range(size)
    ]
    results = [
        {
            "request": "gpu",
            "driver": pattern.driver,
            "pool": pattern.pool or pattern.node,
            "device": device,
        }
        for device in chosen
    ]
    exactly = {
        "deviceClassName": pattern.device_class,
        "allocationMode": "ExactCount",
        "count": size,
    }
    node = {"key": "metadata.name", "operator": "In", "values": [pattern.node]}
    allocation: JsonObject = {
        "devices": {"results": results},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [node]}]},
    }
    if pattern.config:
        allocation["devices"]["config"] = pattern.config
    pod = {
        "resource": "pods",
        "name": f"pod-{name}",
        "uid": f"00000000-0000-4000-8000-{number:012d}",
    }
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {
            "name": name,
            "namespace": pattern.namespace,
            "finalizers": ["resource.kubernetes.io/delete-protection"],
        },
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}},
        "status": {"allocation": allocation, "reservedFor": [pod]},
    }
