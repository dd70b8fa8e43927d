"""Compares stored slices with the wanted ones and returns the writes. Pure; called by ``publisher``.

The index at the front of a slice's name is the index of its part, as in the Go library (either can take over from the
other). Consumers use the slices of the highest generation, once they are complete. So a change of one slice keeps the
generation, any other change moves all slices to the next one, and obsolete slices are deleted last: the pool is
complete at every step.

Equality is the API's: absent equals empty, quantities compare by value, a ``timeAdded`` set by the server is ignored.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from nvdra_core import quantity
from nvdra_core.errors import MalformedTextError
from nvdra_node.kubeletplugin.slices.layout import JsonObject, Part

CONTENT = ("devices", "sharedCounters")
NEVER_OURS = ("nodeSelector", "allNodes", "perDeviceNodeSelection")
MIN_WIDTH = 5
_AMOUNTS = frozenset({"value", "default", "min", "max", "step", "validValues"})
_INDEX = re.compile(r"([0-9a-f]{5,})-")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The pool: its driver and node. Pool and node have the same name."""

    driver: str
    node: str
    node_uid: str

    def owns(self, obj: JsonObject) -> bool:
        """Whether a slice is this driver's on this node."""
        spec = obj.get("spec") or {}
        return spec.get("driver") == self.driver and spec.get("nodeName") == self.node

    def owner_references(self) -> list[JsonObject]:
        """The Node: its slices are garbage collected with it."""
        return [
            {
                "apiVersion": "v1",
                "kind": "Node",
                "name": self.node,
                "uid": self.node_uid,
                "controller": True,
            }
        ]


Write = tuple[int, JsonObject]
"""Index of the part, and the complete object."""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Writes, to be done in this order. Objects to create have a generateName."""

    generation: int
    update: tuple[Write, ...] = ()
    create: tuple[Write, ...] = ()
    delete: tuple[JsonObject, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.update or self.create or self.delete)


def diff(target: Target, parts: Sequence[Part], stored: Iterable[JsonObject]) -> Changes:
    """The writes that make the pool ``parts``. ``stored``: all slices of the driver on this node."""
    places, leftovers = _place(target, parts, stored)
    current = [generation(obj) for obj in (*places.values(), *leftovers)]
    highest = max(current, default=0)
    keep = [index for index in places if _has(target, places[index], parts, index, highest)]
    missing = [index for index in range(len(parts)) if index not in places]
    is_settled = not missing and not any(generation(obj) == highest for obj in leftovers)
    if is_settled and len(places) - len(keep) <= 1:
        wanted = max(highest, 1)
    else:
        wanted, keep = highest + 1, []
    return Changes(
        generation=wanted,
        update=tuple(
            (index, _updated(target, obj, parts, index, wanted))
            for index, obj in places.items()
            if index not in keep
        ),
        create=tuple((index, new_slice(target, parts, index, wanted)) for index in missing),
        delete=tuple(leftovers),
    )


def generation(obj: JsonObject) -> int:
    """The pool's generation in a slice; 0 if there is none."""
    value = ((obj.get("spec") or {}).get("pool") or {}).get("generation")
    return value if isinstance(value, int) else 0


def name_prefix(target: Target, index: int, count: int) -> str:
    """generateName of a slice: index, driver, node."""
    return f"{index:0{_width(count)}x}-{target.driver}-{target.node}-"


def is_same(ours: Any, stored: Any) -> bool:
    """Whether devices or counter sets are equal for the API; see the module."""
    return bool(_canonical(ours) == _canonical(stored))


def dropped(sent: JsonObject, stored: JsonObject) -> frozenset[str]:
    """Feature gates that the API server lacks, as it stored less than was sent; ``unknown`` for other differences."""
    mine, theirs = sent.get("spec") or {}, stored.get("spec") or {}
    if all(is_same(mine.get(key), theirs.get(key)) for key in CONTENT):
        return frozenset()
    pairs = list(zip(mine.get("devices") or (), theirs.get("devices") or (), strict=False))
    gates = {
        gate
        for gate, keys in _GATED.items()
        for a, b in pairs
        if any(_count(a.get(key)) > _count(b.get(key)) for key in keys)
    }
    if _count(mine.get("sharedCounters")) > _count(theirs.get("sharedCounters")):
        gates.add("DRAPartitionableDevices")
    if not gates and any(_lists(a) > _lists(b) for a, b in pairs):
        gates.add("DRAListTypeAttributes")
    return frozenset(gates or {"unknown"})


def uses(part: Part) -> frozenset[str]:
    """Feature gates that an API server needs to keep all of a part."""
    devices = part.get("devices") or ()
    gates = {
        gate for gate, keys in _GATED.items() for d in devices if any(d.get(key) for key in keys)
    }
    if part.get("sharedCounters"):
        gates.add("DRAPartitionableDevices")
    if any(_lists(device) for device in devices):
        gates.add("DRAListTypeAttributes")
    return frozenset(gates | {"unknown"})


_GATED = {
    "DRADeviceTaints": ("taints",),
    "DRAPartitionableDevices": ("consumesCounters",),
    "DRADeviceBindingConditions": ("bindsToNode", "bindingConditions", "bindingFailureConditions"),
    "DRAConsumableCapacity": ("allowMultipleAllocations",),
}


def _place(
    target: Target, parts: Sequence[Part], stored: Iterable[JsonObject]
) -> tuple[dict[int, JsonObject], list[JsonObject]]:
    """The slice of each part by index, and the slices that fit none."""
    places: dict[int, JsonObject] = {}
    leftovers: list[JsonObject] = []
    mine = [obj for obj in stored if target.owns(obj)]
    for obj in sorted(mine, key=lambda o: (-generation(o), o["metadata"]["name"])):
        index = _index(obj, len(parts))
        spec = obj["spec"]
        is_usable = (spec.get("pool") or {}).get("name") == target.node and not any(
            spec.get(key) for key in NEVER_OURS
        )
        if index is None or not is_usable or index in places or _is_deleted(obj):
            leftovers.append(obj)
        else:
            places[index] = obj
    return dict(sorted(places.items())), leftovers


def _is_deleted(obj: JsonObject) -> bool:
    return obj["metadata"].get("deletionTimestamp") is not None


def _index(obj: JsonObject, count: int) -> int | None:
    match = _INDEX.match(obj["metadata"]["name"])
    if match is None or len(match[1]) != _width(count) or int(match[1], 16) >= count:
        return None
    return int(match[1], 16)


def _width(count: int) -> int:
    return max(MIN_WIDTH, len(f"{max(0, count - 1):x}"))


def _has(target: Target, obj: JsonObject, parts: Sequence[Part], index: int, highest: int) -> bool:
    """Whether a stored slice is up to date at the highest generation."""
    spec, part = obj["spec"], parts[index]
    pool = spec.get("pool") or {}
    return (
        pool.get("generation") == highest
        and pool.get("resourceSliceCount") == len(parts)
        and obj["metadata"].get("ownerReferences") == target.owner_references()
        and all(is_same(part.get(key), spec.get(key)) for key in CONTENT)
    )


def _pool(target: Target, parts: Sequence[Part], wanted: int) -> JsonObject:
    return {"name": target.node, "generation": wanted, "resourceSliceCount": len(parts)}


def new_slice(target: Target, parts: Sequence[Part], index: int, generation: int) -> JsonObject:
    """The object to create for one part."""
    spec = {
        "driver": target.driver,
        "nodeName": target.node,
        "pool": _pool(target, parts, generation),
        **parts[index],
    }
    metadata = {
        "generateName": name_prefix(target, index, len(parts)),
        "ownerReferences": target.owner_references(),
    }
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": metadata,
        "spec": spec,
    }


def _updated(
    target: Target, obj: JsonObject, parts: Sequence[Part], index: int, wanted: int
) -> JsonObject:
    """The stored object with the wanted content; other fields are kept."""
    old = obj["spec"]
    spec = {key: value for key, value in old.items() if key not in CONTENT}
    part = dict(parts[index])
    if "devices" in part:
        part["devices"] = keep_times(part["devices"], old.get("devices") or ())
    spec = {**spec, "pool": {**(old.get("pool") or {}), **_pool(target, parts, wanted)}, **part}
    metadata = {**obj["metadata"], "ownerReferences": target.owner_references()}
    return {**obj, "metadata": metadata, "spec": spec}


def keep_times(
    devices: Sequence[JsonObject], stored: Sequence[Mapping[str, Any]]
) -> list[JsonObject]:
    """``devices`` with ``timeAdded`` of the taints stored before: another time would restart evictions."""
    times = {
        (device["name"], *_taint_key(taint)): {"timeAdded": taint["timeAdded"]}
        for device in stored
        for taint in device.get("taints") or ()
        if "timeAdded" in taint
    }
    timed = []
    for device in devices:
        taints = [
            {**taint, **times.get((device["name"], *_taint_key(taint)), {})}
            for taint in device.get("taints") or ()
        ]
        timed.append({**device, "taints": taints} if taints else device)
    return timed


def _taint_key(taint: Mapping[str, Any]) -> tuple[Any, ...]:
    return taint.get("key"), taint.get("value") or "", taint.get("effect")


def _canonical(value: Any, key: str = "") -> Any:
    """``value`` in a form in which all that the API treats alike is equal; None if it is empty."""
    if isinstance(value, Mapping):
        if isinstance(value.get("effect"), str):
            return _taint_key(value)
        members = {k: c for k, v in value.items() if (c := _canonical(v, k)) is not None}
        return members or None
    if isinstance(value, (list, tuple)):
        return [_canonical(item, key) for item in value] or None
    if isinstance(value, bool):
        return str(value)  # True == 1 in Python, but not in JSON
    if key in _AMOUNTS and isinstance(value, (str, int)):
        with contextlib.suppress(MalformedTextError):
            return quantity.parse(str(value))
    return value


def _count(value: Any) -> int:
    return len(value) if isinstance(value, (list, tuple, Mapping)) else int(bool(value))


def _lists(device: Mapping[str, Any]) -> int:
    attributes = device.get("attributes") or {}
    return sum(
        _count(v) for value in attributes.values() for v in value.values() if isinstance(v, list)
    )
