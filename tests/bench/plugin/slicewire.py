"""Decodes a ResourceSlice that a client sent as protobuf: Go plugins do, and the in-memory API speaks JSON only. Pure.

Field numbers are those of k8s.io/api/resource/v1 and apimachinery's meta/v1 (Kubernetes 1.34 and later). Unknown fields
are left out: what is wanted is a slice that the API can store and return, not a faithful copy of everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAGIC = b"k8s\0"
CONTENT_TYPE = "application/vnd.kubernetes.protobuf"

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Field:
    """How one field appears in JSON; `kind` is "string", "int", "bool", "quantity" or the name of a message."""

    name: str
    kind: str = "string"
    shape: str = "one"
    """"one", "list" or "map" (from strings)."""


_MESSAGES: dict[str, dict[int, _Field]] = {
    "Unknown": {1: _Field("typeMeta", "TypeMeta"), 2: _Field("raw", "bytes")},
    "TypeMeta": {1: _Field("apiVersion"), 2: _Field("kind")},
    "ResourceSlice": {1: _Field("metadata", "ObjectMeta"), 2: _Field("spec", "Spec")},
    "ObjectMeta": {
        1: _Field("name"),
        2: _Field("generateName"),
        5: _Field("uid"),
        6: _Field("resourceVersion"),
        11: _Field("labels", shape="map"),
        12: _Field("annotations", shape="map"),
        13: _Field("ownerReferences", "OwnerReference", "list"),
        14: _Field("finalizers", shape="list"),
    },
    "OwnerReference": {
        1: _Field("kind"),
        3: _Field("name"),
        4: _Field("uid"),
        5: _Field("apiVersion"),
        6: _Field("controller", "bool"),
        7: _Field("blockOwnerDeletion", "bool"),
    },
    "Spec": {
        1: _Field("driver"),
        2: _Field("pool", "Pool"),
        3: _Field("nodeName"),
        5: _Field("allNodes", "bool"),
        6: _Field("devices", "Device", "list"),
        7: _Field("perDeviceNodeSelection", "bool"),
        8: _Field("sharedCounters", "Counters", "list"),
    },
    "Pool": {
        1: _Field("name"),
        2: _Field("generation", "int"),
        3: _Field("resourceSliceCount", "int"),
    },
    "Device": {
        1: _Field("name"),
        2: _Field("attributes", "Attribute", "map"),
        3: _Field("capacity", "Capacity", "map"),
        4: _Field("consumesCounters", "Consumption", "list"),
        5: _Field("nodeName"),
        8: _Field("taints", "Taint", "list"),
        12: _Field("allowMultipleAllocations", "bool"),
    },
    "Attribute": {
        2: _Field("int", "int"),
        3: _Field("bool", "bool"),
        4: _Field("string"),
        5: _Field("version"),
        6: _Field("ints", "int", "list"),
        7: _Field("bools", "bool", "list"),
        8: _Field("strings", shape="list"),
        9: _Field("versions", shape="list"),
    },
    "Capacity": {1: _Field("value", "quantity"), 2: _Field("requestPolicy", "Policy")},
    "Policy": {
        1: _Field("default", "quantity"),
        3: _Field("validValues", "quantity", "list"),
        4: _Field("validRange", "Range"),
    },
    "Range": {
        1: _Field("min", "quantity"),
        2: _Field("max", "quantity"),
        3: _Field("step", "quantity"),
    },
    "Counters": {1: _Field("name"), 2: _Field("counters", "Counter", "map")},
    "Counter": {1: _Field("value", "quantity")},
    "Consumption": {1: _Field("counterSet"), 2: _Field("counters", "Counter", "map")},
    "Taint": {1: _Field("key"), 2: _Field("value"), 3: _Field("effect")},
}

_SCALARS = {"string", "int", "bool", "quantity", "bytes"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def decode(body: bytes) -> Object:
    """Return the object in a request body; `ValueError` when it is no ResourceSlice in Kubernetes' protobuf form."""
    if not body.startswith(MAGIC):
        raise ValueError("the body is no protobuf of Kubernetes")
    envelope = _message(body[len(MAGIC) :], "Unknown")
    meta = envelope.get("typeMeta", {})
    if meta.get("kind") != "ResourceSlice" or meta.get("apiVersion") != "resource.k8s.io/v1":
        raise ValueError(f"only slices of resource.k8s.io/v1 are decoded, not {meta}")
    return {**meta, **_message(envelope["raw"], "ResourceSlice")}


def _message(data: bytes, name: str) -> Object:
    result: Object = {}
    fields = _MESSAGES[name]
    for number, value in _fields(data):
        field = fields.get(number)
        if field is None:
            continue
        if field.shape == "list":
            result.setdefault(field.name, []).append(_value(value, field.kind))
        elif field.shape == "map":
            entry = dict(_fields(_bytes(value)))
            key = _bytes(entry.get(1, b"")).decode()
            result.setdefault(field.name, {})[key] = _value(entry.get(2, b""), field.kind)
        elif (found := _value(value, field.kind)) or name == "Attribute":
            # Go writes empty values of required fields, which JSON would leave out; in attributes they mean something.
            result[field.name] = found
    return result


def _value(value: int | bytes, kind: str) -> Any:
    if kind == "int":
        number = int(value) if isinstance(value, int) else 0
        return number - (1 << 64) if number >> 63 else number
    if kind == "bool":
        return bool(value)
    data = _bytes(value)
    if kind == "bytes":
        return data
    if kind == "quantity":
        return _bytes(dict(_fields(data)).get(1, b"")).decode()
    return data.decode() if kind in _SCALARS else _message(data, kind)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where text is expected")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field, undecoded."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in {_FIXED64, _FIXED32}:
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} is not used by Kubernetes")
        if at + length > len(data):
            raise ValueError("the body is cut short")
        yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("the body is cut short")
