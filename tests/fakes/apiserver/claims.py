"""Validation of ResourceClaims: the spec never changes, the allocation is set once, device statuses are of its results.

Pure; each check returns causes (field, message). Source: DRA contract, section 6.
"""

from __future__ import annotations

import json
from typing import Any

JsonObject = dict[str, Any]
Causes = list[tuple[str, str]]
MAX_CONDITIONS = 8
MAX_DATA_BYTES = 10 * 1024
KEYS = ("driver", "pool", "device", "shareID")
CONDITION_FIELDS = ("type", "status", "reason", "lastTransitionTime", "message")


def validate(obj: JsonObject, old: JsonObject | None) -> Causes:
    """Check a v1 claim; ``old`` is the stored state on an update."""
    causes: Causes = []
    status = obj.get("status") or {}
    if old is not None:
        if obj.get("spec") != old.get("spec"):
            causes.append(("spec", "field is immutable"))
        before = (old.get("status") or {}).get("allocation")
        after = status.get("allocation")
        if before and after and before != after:
            causes.append(("status.allocation", "field is immutable"))
    elif not isinstance((obj.get("spec") or {}).get("devices", {}), dict):
        causes.append(("spec.devices", "must be an object"))
    return causes + _check_devices(status)


def has_unsorted_parameters(claim: JsonObject) -> bool:
    """Whether the real server refuses every apply of the status: it sorts opaque parameters meanwhile, and then takes
    the allocation for another one. Seen with 1.34 and 1.36; merge patches and updates are not concerned."""
    devices = ((claim.get("status") or {}).get("allocation") or {}).get("devices") or {}
    opaque = [
        (entry.get("opaque") or {}).get("parameters") for entry in devices.get("config") or ()
    ]
    return any(json.dumps(one) != json.dumps(one, sort_keys=True) for one in opaque)


def with_allocated_devices(status: JsonObject) -> JsonObject:
    """``status`` without device statuses when nothing is allocated any more."""
    if status.get("allocation") or "devices" not in status:
        return status
    return {key: value for key, value in status.items() if key != "devices"}


def node_of(claim: JsonObject) -> str:
    """The node of an allocation in the exact form that the scheduler writes; empty otherwise."""
    allocation = (claim.get("status") or {}).get("allocation") or {}
    terms = (allocation.get("nodeSelector") or {}).get("nodeSelectorTerms") or []
    if len(terms) != 1 or terms[0].get("matchExpressions"):
        return ""
    fields = terms[0].get("matchFields") or []
    if len(fields) != 1 or fields[0].get("key") != "metadata.name":
        return ""
    values = fields[0].get("values") or []
    return str(values[0]) if fields[0].get("operator") == "In" and len(values) == 1 else ""


def changed_drivers(new: JsonObject, old: JsonObject) -> set[str]:
    """The drivers whose device statuses a write adds, changes or removes."""
    before = _statuses(old)
    after = _statuses(new)
    keys = before.keys() | after.keys()
    return {str(key[0]) for key in keys if before.get(key) != after.get(key)}


def is_binding_changed(new: JsonObject, old: JsonObject) -> bool:
    """Whether a write changes what only the scheduler may change."""
    before, after = old.get("status") or {}, new.get("status") or {}
    return any(before.get(key) != after.get(key) for key in ("allocation", "reservedFor"))


def _statuses(claim: JsonObject) -> dict[tuple[Any, ...], JsonObject]:
    entries = (claim.get("status") or {}).get("devices") or []
    return {_key(entry): entry for entry in entries}


def _key(entry: JsonObject) -> tuple[Any, ...]:
    return tuple(entry.get(key) for key in KEYS)


def _check_devices(status: JsonObject) -> Causes:
    results = ((status.get("allocation") or {}).get("devices") or {}).get("results") or []
    allocated = {_key(result) for result in results}
    seen: set[tuple[Any, ...]] = set()
    causes: Causes = []
    for index, entry in enumerate(status.get("devices") or []):
        path = f"status.devices[{index}]"
        key = _key(entry)
        if key not in allocated:
            causes.append((path, "must be an allocated device in the claim"))
        if key in seen:
            causes.append((path, "Duplicate value"))
        seen.add(key)
        causes += _check_conditions(f"{path}.conditions", entry.get("conditions") or [])
        data = entry.get("data")
        if data is not None and (
            not isinstance(data, dict) or len(json.dumps(data)) > MAX_DATA_BYTES
        ):
            causes.append((f"{path}.data", "must be a JSON object of at most 10 KiB"))
    return causes


def _check_conditions(path: str, conditions: list[JsonObject]) -> Causes:
    causes: Causes = []
    if len(conditions) > MAX_CONDITIONS:
        causes.append((path, f"must have at most {MAX_CONDITIONS} items"))
    for index, condition in enumerate(conditions):
        causes += [
            (f"{path}[{index}].{key}", "Required value")
            for key in CONDITION_FIELDS
            if key not in condition or (key != "message" and not condition[key])
        ]
    return causes
