"""Feature gates of the API server and what it drops from ResourceSlices and claim statuses when they are off. Pure.

A field that the stored object already uses is kept, as the real server does. Source: DRA contract, section 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

JsonObject = dict[str, Any]

GATES_ON: dict[str, int] = {
    "DRAAdminAccess": 34,
    "DRAResourceClaimDeviceStatus": 33,
    "DRAPrioritizedList": 34,
    "DRAPartitionableDevices": 36,
    "DRADeviceTaints": 36,
    "DRAConsumableCapacity": 36,
    "DRADeviceBindingConditions": 36,
    "DRAExtendedResource": 36,
    "DRAResourceClaimGranularStatusAuthorization": 36,
    "DRAListTypeAttributes": 99,
    "DRANodeAllocatableResources": 99,
}
"""The minor version of Kubernetes from which the gate is on by default."""

PARTITION_SPEC = ("sharedCounters", "perDeviceNodeSelection")
PARTITION_DEVICE = ("consumesCounters", "nodeName", "nodeSelector", "allNodes")
BINDING_DEVICE = ("bindsToNode", "bindingConditions", "bindingFailureConditions")
LIST_VALUES = ("ints", "bools", "strings", "versions")


def defaults(minor: int, changed: Mapping[str, bool]) -> dict[str, bool]:
    """All gates of Kubernetes 1.``minor``, with the cluster's own settings; raises ValueError for unknown names."""
    unknown = sorted(set(changed) - set(GATES_ON))
    if unknown:
        raise ValueError(f"unknown feature gates: {', '.join(unknown)}")
    return {**{gate: minor >= since for gate, since in GATES_ON.items()}, **changed}


def drop_slice_fields(
    gates: Mapping[str, bool], new: JsonObject, old: JsonObject | None
) -> JsonObject:
    """``new`` (a v1 slice) without what the gates forbid."""
    for gate, drop in SLICE_DROPS.items():
        is_on = gates[gate]
        if gate == "DRADeviceBindingConditions":
            is_on = is_on and gates["DRAResourceClaimDeviceStatus"]
        spec = new.get("spec")
        if is_on or not isinstance(spec, dict) or (old is not None and _uses(drop, old)):
            continue
        new = {**new, "spec": drop(spec)}
    return new


def drop_claim_status(gates: Mapping[str, bool], status: JsonObject) -> JsonObject:
    """A claim's status without ``devices`` when statuses of devices are off."""
    if gates["DRAResourceClaimDeviceStatus"] or "devices" not in status:
        return status
    return {key: value for key, value in status.items() if key != "devices"}


def _uses(drop: Callable[[JsonObject], JsonObject], old: JsonObject) -> bool:
    spec = old["spec"]
    return bool(drop(spec) != spec)


def _without(values: JsonObject, keys: tuple[str, ...]) -> JsonObject:
    return {key: value for key, value in values.items() if key not in keys}


def _devices(spec: JsonObject, change: Callable[[JsonObject], JsonObject]) -> JsonObject:
    if not isinstance(spec.get("devices"), list):
        return spec
    return {**spec, "devices": [change(device) for device in spec["devices"]]}


def _drop_taints(spec: JsonObject) -> JsonObject:
    return _devices(spec, lambda device: _without(device, ("taints",)))


def _drop_partitions(spec: JsonObject) -> JsonObject:
    return _devices(
        _without(spec, PARTITION_SPEC), lambda device: _without(device, PARTITION_DEVICE)
    )


def _drop_bindings(spec: JsonObject) -> JsonObject:
    return _devices(spec, lambda device: _without(device, BINDING_DEVICE))


def _drop_consumable(spec: JsonObject) -> JsonObject:
    def change(device: JsonObject) -> JsonObject:
        device = _without(device, ("allowMultipleAllocations",))
        capacity = device.get("capacity")
        if capacity:
            policy_free = {
                name: _without(value, ("requestPolicy",)) for name, value in capacity.items()
            }
            device = {**device, "capacity": policy_free}
        return device

    return _devices(spec, change)


def _drop_lists(spec: JsonObject) -> JsonObject:
    def change(device: JsonObject) -> JsonObject:
        attributes = device.get("attributes")
        if not attributes:
            return device
        scalars = {name: _without(value, LIST_VALUES) for name, value in attributes.items()}
        return {**device, "attributes": scalars}

    return _devices(spec, change)


def _drop_allocatable(spec: JsonObject) -> JsonObject:
    return _devices(spec, lambda device: _without(device, ("nodeAllocatableResourceMappings",)))


SLICE_DROPS: dict[str, Callable[[JsonObject], JsonObject]] = {
    "DRADeviceTaints": _drop_taints,
    "DRAPartitionableDevices": _drop_partitions,
    "DRADeviceBindingConditions": _drop_bindings,
    "DRAConsumableCapacity": _drop_consumable,
    "DRAListTypeAttributes": _drop_lists,
    "DRANodeAllocatableResources": _drop_allocatable,
}
