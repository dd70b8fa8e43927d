"""Validation of ResourceSlices as the API server does it: limits, presence, immutability, unknown fields. Pure.

Each check returns causes (field, message); none means valid. Source: section 5.1 of the DRA contract.
"""

from __future__ import annotations

from typing import Any

from tests.fakes.apiserver import devices
from tests.fakes.apiserver.devices import Causes, JsonObject

SPEC_FIELDS = frozenset(
    {
        "driver", "pool", "nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection",
        "devices", "sharedCounters",
    }
)  # fmt: skip
IMMUTABLE = ("driver", "nodeName")
MAX_DEVICES = 128
MAX_LOADED_DEVICES = 64
MAX_COUNTER_SETS = 8
MAX_COUNTERS = 32


def prune(obj: JsonObject) -> tuple[JsonObject, list[str]]:
    """``obj`` without fields that the server does not know, and their paths."""
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        return obj, []
    unknown = [f"spec.{key}" for key in spec if key not in SPEC_FIELDS]
    kept = {key: value for key, value in spec.items() if key in SPEC_FIELDS}
    if isinstance(spec.get("devices"), list):
        kept["devices"] = []
        for index, device in enumerate(spec["devices"]):
            unknown += [
                f"spec.devices[{index}].{key}" for key in device if key not in devices.FIELDS
            ]
            kept["devices"].append(
                {key: value for key, value in device.items() if key in devices.FIELDS}
            )
    return {**obj, "spec": kept}, unknown


def validate(obj: JsonObject, old: JsonObject | None, minor: int) -> Causes:
    """Check a v1 slice for Kubernetes 1.``minor``; ``old`` is the stored state on an update."""
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        return [("spec", "Required value")]
    causes = _check_names(spec) + _check_node_selection(spec)
    causes += _check_devices(spec, minor) + _check_counter_sets(spec, minor)
    if old is not None:
        before = old["spec"]
        causes += [
            (f"spec.{key}", "field is immutable")
            for key in IMMUTABLE
            if spec.get(key) != before.get(key)
        ]
        if _pool(spec).get("name") != _pool(before).get("name"):
            causes.append(("spec.pool.name", "field is immutable"))
    return causes


def _pool(spec: JsonObject) -> JsonObject:
    pool = spec.get("pool")
    return pool if isinstance(pool, dict) else {}


def _check_names(spec: JsonObject) -> Causes:
    causes: Causes = []
    pool = _pool(spec)
    if not devices.is_driver_name(spec.get("driver")):
        causes.append(("spec.driver", "must be a DNS subdomain of at most 63 characters"))
    name = pool.get("name")
    if (
        not isinstance(name, str)
        or len(name) > 253
        or not all(map(devices.is_subdomain, name.split("/")))
    ):
        causes.append(("spec.pool.name", "must be DNS subdomains joined by slashes"))
    if not _is_count(pool.get("generation", 0), least=0):
        causes.append(("spec.pool.generation", "must be greater than or equal to 0"))
    if not _is_count(pool.get("resourceSliceCount"), least=1):
        causes.append(("spec.pool.resourceSliceCount", "must be greater than 0"))
    return causes


def _is_count(value: Any, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_node_selection(spec: JsonObject) -> Causes:
    causes: Causes = []
    keys = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")
    present = [key for key in keys if spec.get(key) is not None]
    if len(present) != 1:
        causes.append(("spec", f"exactly one of {', '.join(keys)} is required, found {present}"))
    if "nodeName" in present and not devices.is_subdomain(spec["nodeName"]):
        causes.append(("spec.nodeName", "must be the name of a node, or absent"))
    causes += [
        (f"spec.{key}", "must be true or absent")
        for key in ("allNodes", "perDeviceNodeSelection")
        if key in present and spec[key] is not True
    ]
    if "nodeSelector" in present:
        terms = (spec["nodeSelector"] or {}).get("nodeSelectorTerms") or []
        if len(terms) != 1:
            causes.append(("spec.nodeSelector.nodeSelectorTerms", "must have exactly one term"))
    return causes


def _check_devices(spec: JsonObject, minor: int) -> Causes:
    found = spec.get("devices") or []
    is_loaded = any(
        (minor >= 35 and (device.get("taints") or device.get("consumesCounters")))
        or (minor >= 36 and devices.has_list_values(device))
        for device in found
    )
    limit = MAX_LOADED_DEVICES if is_loaded else MAX_DEVICES
    causes: Causes = []
    if len(found) > limit:
        causes.append(("spec.devices", f"Too many: {len(found)}: must have at most {limit} items"))
    seen: set[str] = set()
    is_per_device = spec.get("perDeviceNodeSelection") is True
    for index, device in enumerate(found):
        path = f"spec.devices[{index}]"
        causes += devices.check(path, device, minor)
        causes += devices.check_node_selection(path, device, is_per_device=is_per_device)
        name = str(device.get("name"))
        if name in seen:
            causes.append((f"{path}.name", f'Duplicate value: "{name}"'))
        seen.add(name)
    return causes


def _check_counter_sets(spec: JsonObject, minor: int) -> Causes:
    sets = spec.get("sharedCounters") or []
    causes: Causes = []
    if minor >= 35:
        if sets and spec.get("devices") is not None:
            causes.append(
                ("spec", "only one of devices and sharedCounters is allowed in one slice")
            )
        if len(sets) > MAX_COUNTER_SETS:
            causes.append(("spec.sharedCounters", f"must have at most {MAX_COUNTER_SETS} items"))
    elif sum(len(entry.get("counters") or {}) for entry in sets) > MAX_COUNTERS:
        causes.append(("spec.sharedCounters", f"at most {MAX_COUNTERS} counters in all sets"))
    names: set[str] = set()
    for index, entry in enumerate(sets):
        path = f"spec.sharedCounters[{index}]"
        name = entry.get("name")
        if not devices.is_label(name):
            causes.append((f"{path}.name", "must be a DNS label"))
        if name in names:
            causes.append((f"{path}.name", f'Duplicate value: "{name}"'))
        names.add(name)
        causes += devices.check_counters(f"{path}.counters", entry.get("counters"))
    return causes + _check_references(spec, names, minor)


def _check_references(spec: JsonObject, names: set[str], minor: int) -> Causes:
    if minor >= 35:
        return []  # sets are in other slices of the pool, which the server does not look at
    return [
        (
            f"spec.devices[{index}].consumesCounters",
            f"unknown counter set {entry.get('counterSet')!r}",
        )
        for index, device in enumerate(spec.get("devices") or [])
        for entry in device.get("consumesCounters") or []
        if entry.get("counterSet") not in names
    ]
