"""Validation of the devices inside a ResourceSlice; for ``slices`` alone. Pure. Source: DRA contract, 5.1."""

from __future__ import annotations

import re
from typing import Any

JsonObject = dict[str, Any]
Causes = list[tuple[str, str]]

FIELDS = frozenset(
    {
        "name", "attributes", "capacity", "consumesCounters", "nodeName", "nodeSelector",
        "allNodes", "taints", "bindsToNode", "bindingConditions", "bindingFailureConditions",
        "allowMultipleAllocations", "nodeAllocatableResourceMappings",
    }
)  # fmt: skip
SCALARS = {"int": int, "bool": bool, "string": str, "version": str}
LISTS = ("ints", "bools", "strings", "versions")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LABEL_KEY = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?")
SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?", re.ASCII
)
QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?", re.ASCII)
MAX_ENTRIES = 32
MAX_VALUES = 48
MAX_CONDITIONS = 4


def is_subdomain(name: Any) -> bool:
    """DNS-1123 subdomain of at most 253 characters."""
    return isinstance(name, str) and len(name) <= 253 and bool(SUBDOMAIN.fullmatch(name))


def is_label(name: Any) -> bool:
    """DNS-1123 label."""
    return isinstance(name, str) and len(name) <= 63 and bool(LABEL.fullmatch(name))


def is_driver_name(name: Any) -> bool:
    """What a DRA driver may be called."""
    return is_subdomain(name) and len(name) <= 63


def is_qualified_name(name: str) -> bool:
    """``identifier`` or ``domain/identifier``."""
    domain, slash, identifier = name.rpartition("/")
    if slash and not is_driver_name(domain):
        return False
    return len(identifier) <= 32 and bool(IDENTIFIER.fullmatch(identifier))


def has_list_values(device: JsonObject) -> bool:
    """Whether an attribute of the device is a list."""
    return any(key in LISTS for value in (device.get("attributes") or {}).values() for key in value)


def check(path: str, device: JsonObject, minor: int) -> Causes:
    """All rules that concern one device alone."""
    causes: Causes = []
    if not is_label(device.get("name")):
        causes.append((f"{path}.name", f"{device.get('name')!r} must be a DNS label"))
    attributes = device.get("attributes") or {}
    capacity = device.get("capacity") or {}
    if len(attributes) + len(capacity) > MAX_ENTRIES:
        causes.append((path, f"at most {MAX_ENTRIES} attributes and capacities together"))
    values = 0
    for name, value in attributes.items():
        field = f"{path}.attributes[{name}]"
        if not is_qualified_name(name):
            causes.append((field, "must be a C identifier, with or without a domain"))
        causes += _check_attribute(field, value)
        values += sum(len(value[key]) if key in LISTS else 1 for key in value)
    if minor >= 36 and values > MAX_VALUES:
        causes.append((f"{path}.attributes", f"at most {MAX_VALUES} values"))
    for name, value in capacity.items():
        field = f"{path}.capacity[{name}]"
        if not is_qualified_name(name):
            causes.append((field, "must be a C identifier, with or without a domain"))
        causes += _check_quantity(f"{field}.value", value.get("value"))
        if value.get("requestPolicy") and not device.get("allowMultipleAllocations"):
            causes.append((f"{field}.requestPolicy", "needs allowMultipleAllocations"))
    return causes + _check_consumption(path, device, minor) + _check_rest(path, device, minor)


def check_node_selection(path: str, device: JsonObject, *, is_per_device: bool) -> Causes:
    """A device selects nodes only, and then exactly once, when the slice says that devices do."""
    present = [k for k in ("nodeName", "nodeSelector", "allNodes") if device.get(k) is not None]
    if is_per_device and len(present) != 1:
        return [(path, "exactly one of nodeName, nodeSelector, allNodes is required")]
    if not is_per_device and present:
        return [(f"{path}.{present[0]}", "needs perDeviceNodeSelection of the slice")]
    return []


def check_counters(path: str, counters: Any) -> Causes:
    """The counters of a set or of a consumption."""
    if not counters:
        return [(path, "Required value")]
    causes: Causes = []
    if len(counters) > MAX_ENTRIES:
        causes.append((path, f"must have at most {MAX_ENTRIES} items"))
    for name, value in counters.items():
        if not is_label(name):
            causes.append((f"{path}[{name}]", "must be a DNS label"))
        causes += _check_quantity(f"{path}[{name}].value", value.get("value"))
    return causes


def _check_attribute(field: str, value: JsonObject) -> Causes:
    if len(value) != 1:
        return [(field, f"exactly one value is required, found {sorted(value)}")]
    ((key, content),) = value.items()
    if key in LISTS:
        return [] if content else [(f"{field}.{key}", "must not be empty")]
    why = _scalar_objection(key, content)
    return [(f"{field}.{key}", why)] if why else []


def _scalar_objection(key: str, content: Any) -> str:
    kind = SCALARS.get(key)
    if kind is None or not isinstance(content, kind) or (kind is int and isinstance(content, bool)):
        return f"{content!r} is of the wrong type"
    if isinstance(content, str) and len(content.encode()) > 64:
        return "Too long: may not be more than 64 bytes"
    if key == "version" and not SEMVER.fullmatch(str(content)):
        return f"{content!r} is not a semantic version 2.0.0"
    return ""


def _check_quantity(field: str, value: Any) -> Causes:
    if isinstance(value, int | str) and QUANTITY.fullmatch(str(value)):
        return []
    return [(field, f"{value!r} is not a quantity")]


def _check_consumption(path: str, device: JsonObject, minor: int) -> Causes:
    consumed = device.get("consumesCounters") or []
    causes: Causes = []
    if minor >= 35 and len(consumed) > 2:
        causes.append((f"{path}.consumesCounters", "must have at most 2 items"))
    if len({entry.get("counterSet") for entry in consumed}) != len(consumed):
        causes.append((f"{path}.consumesCounters", "each counter set may be named once"))
    for index, entry in enumerate(consumed):
        field = f"{path}.consumesCounters[{index}]"
        if not is_label(entry.get("counterSet")):
            causes.append((f"{field}.counterSet", "must be a DNS label"))
        causes += check_counters(f"{field}.counters", entry.get("counters"))
    return causes


def _check_rest(path: str, device: JsonObject, minor: int) -> Causes:
    taints = device.get("taints") or []
    limit = 16 if minor >= 35 else 4
    effects = {"NoSchedule", "NoExecute"} | ({"None"} if minor >= 35 else set())
    causes: Causes = []
    if len(taints) > limit:
        causes.append((f"{path}.taints", f"must have at most {limit} items"))
    for index, taint in enumerate(taints):
        if not LABEL_KEY.fullmatch(taint.get("key") or ""):
            causes.append((f"{path}.taints[{index}].key", "must be a label name"))
        if not LABEL_VALUE.fullmatch(taint.get("value") or ""):
            causes.append((f"{path}.taints[{index}].value", "must be a label value"))
        if taint.get("effect") not in effects:
            causes.append((f"{path}.taints[{index}].effect", f"must be one of {sorted(effects)}"))
    causes += [
        (f"{path}.{key}", f"must have at most {MAX_CONDITIONS} items")
        for key in ("bindingConditions", "bindingFailureConditions")
        if len(device.get(key) or []) > MAX_CONDITIONS
    ]
    return causes
