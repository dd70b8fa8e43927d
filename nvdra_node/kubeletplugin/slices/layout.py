"""Pool -> contents of its slices: which device and which counter set goes into which ResourceSlice. Pure.

Called by ``publisher``. The order of devices is kept (the scheduler takes the first that fits). A slice holds 128
devices, or 64 when one of them has taints, counters or lists. From Kubernetes 1.35 on counter sets are in slices of
their own, eight in each; before, they live beside the devices that consume them. An empty pool is one empty slice: it
says that the driver is here. Source: ResourceSlice of resource.k8s.io/v1, KEP-4815.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nvdra_core.errors import NvdraError
from nvdra_node.kubeletplugin.driver import Pool

JsonObject = dict[str, Any]
Part = dict[str, Any]
"""``devices`` or ``sharedCounters`` of one slice, neither empty: the API takes an empty list for a value."""

MAX_DEVICES = 128
MAX_LOADED_DEVICES = 64
MAX_COUNTER_SETS = 8
SPLIT_SINCE = (1, 35)
LISTS = frozenset({"ints", "bools", "strings", "versions"})


class PoolError(NvdraError):
    """The driver built a pool that no API server can take: our bug. Nothing is published until the pool changes."""


def layout(pool: Pool, *, is_split: bool) -> tuple[Part, ...]:
    """The contents of the slices, in order; never none. ``is_split``: counter sets apart. Raises PoolError."""
    validate(pool)
    if not pool.shared_counters:
        parts = [{"devices": chunk} for chunk in _chunks(pool.devices)]
    elif is_split:
        sets = [dict(entry) for entry in pool.shared_counters]
        parts = [
            {"sharedCounters": sets[start : start + MAX_COUNTER_SETS]}
            for start in range(0, len(sets), MAX_COUNTER_SETS)
        ]
        parts += [{"devices": chunk} for chunk in _chunks(pool.devices)]
    else:
        parts = _combined(pool)
    return tuple(parts) or ({},)


def validate(pool: Pool) -> None:
    """What must be right across slices, and the API server cannot check. Raises PoolError."""
    _unique("device", (str(device.get("name")) for device in pool.devices))
    _unique("counter set", (str(entry.get("name")) for entry in pool.shared_counters))
    counters = {entry["name"]: entry.get("counters") or {} for entry in pool.shared_counters}
    for device in pool.devices:
        for consumed in device.get("consumesCounters") or ():
            known = counters.get(consumed.get("counterSet"))
            if known is None:
                raise PoolError(
                    f"device {device['name']}: there is no counter set {consumed.get('counterSet')}"
                )
            if missing := sorted(set(consumed.get("counters") or ()) - set(known)):
                raise PoolError(
                    f"device {device['name']}: counter set {consumed['counterSet']} has no counter"
                    f" {', '.join(missing)}"
                )


def is_loaded(device: Mapping[str, Any]) -> bool:
    """Whether a device takes the room of two."""
    if device.get("taints") or device.get("consumesCounters"):
        return True
    attributes = device.get("attributes") or {}
    return any(not LISTS.isdisjoint(value) for value in attributes.values())


def _unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PoolError(f"{what} {name} is in the pool twice")
        seen.add(name)


def _chunks(devices: Sequence[Mapping[str, Any]]) -> list[list[JsonObject]]:
    chunks: list[list[JsonObject]] = []
    limit = 0
    for device in devices:
        loaded = is_loaded(device)
        limit = min(limit, MAX_LOADED_DEVICES) if loaded else limit
        if not chunks or len(chunks[-1]) >= limit:
            chunks.append([])
            limit = MAX_LOADED_DEVICES if loaded else MAX_DEVICES
        chunks[-1].append(dict(device))
    return chunks


def _combined(pool: Pool) -> list[Part]:
    """One slice for each group of counter sets that some device connects, then the devices without counters."""
    groups = _groups(pool)
    free = [device for device in pool.devices if not device.get("consumesCounters")]
    parts: list[Part] = []
    for names in groups:
        devices = [dict(d) for d in pool.devices if names & _sets_of(d)]
        if len(devices) > MAX_DEVICES:
            raise PoolError(
                f"{len(devices)} devices consume counter set {min(names)}; before Kubernetes 1.35"
                f" they must fit into one slice of {MAX_DEVICES}"
            )
        sets = [dict(entry) for entry in pool.shared_counters if entry["name"] in names]
        parts.append(
            {"devices": devices, "sharedCounters": sets} if devices else {"sharedCounters": sets}
        )
    return parts + [{"devices": chunk} for chunk in _chunks(free)]


def _groups(pool: Pool) -> list[set[str]]:
    groups = [{str(entry["name"])} for entry in pool.shared_counters]
    for device in pool.devices:
        names = _sets_of(device)
        touched = [group for group in groups if group & names]
        if len(touched) > 1:
            # In the place of the first, so that the order of the pool is kept.
            touched[0].update(*touched[1:])
            groups = [g for g in groups if not any(g is other for other in touched[1:])]
    return groups


def _sets_of(device: Mapping[str, Any]) -> set[str]:
    return {str(entry.get("counterSet")) for entry in device.get("consumesCounters") or ()}
