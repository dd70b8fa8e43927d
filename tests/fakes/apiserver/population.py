"""Allocated claims in bulk, as the scheduler would leave them. Pure: a pattern in, objects out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.lib import objects

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
    pool = pattern.pool or pattern.node
    results = [objects.result(device, pool, driver=pattern.driver) for device in chosen]
    request = objects.request("gpu", pattern.device_class, allocationMode="ExactCount", count=size)
    allocation = objects.allocation(*results, node=pattern.node, config=pattern.config)
    pod_uid = f"00000000-0000-4000-8000-{number:012d}"
    return objects.claim(
        name,
        pattern.namespace,
        request,
        meta={"finalizers": ["resource.kubernetes.io/delete-protection"]},
        status={
            "allocation": allocation,
            "reservedFor": objects.reserved_for(f"pod-{name}", pod_uid),
        },
    )
