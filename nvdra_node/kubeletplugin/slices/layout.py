"""Distributes the devices and counter sets of a pool over ResourceSlices. Pure; called by ``publisher``.

Keeps the order of devices (the scheduler takes the first that fits). A slice holds 128 devices, or 64 when one of them
has taints, counters or lists. Kubernetes >= 1.35 wants counter sets in slices of their own, eight in each; before, they
are in the slice of the devices that consume them. An empty pool is one empty slice. Source: ResourceSlice of
resource.k8s.io/v1, KEP-4815.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nvdra_core.errors import NvdraError
from nvdra_node.kubeletplugin.driver import Pool

JsonObject = dict[str, Any]
Part = dict[str, Any]
"""Content of one slice: ``devices`` and ``sharedCounters``; an empty list is left out, as in the API."""

MAX_DEVICES = 128
MAX_EXTENDED_DEVICES = 64
MAX_COUNTER_SETS = 8
SPLIT_SINCE = (1, 35)
LISTS = frozenset({"ints", "bools", "strings", "versions"})


class PoolError(NvdraError):
    """The driver built an invalid pool: a bug. Nothing is published until the pool changes."""


def layout(pool: Pool, *, is_split: bool) -> tuple[Part, ...]:
    """The contents of the slices, at least one. ``is_split``: counter sets in slices of their own. Raises PoolError."""
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
    """Check what spans slices, which the API server cannot. Raises PoolError."""
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


def is_extended(device: Mapping[str, Any]) -> bool:
    """Whether a device has fields that lower the limit of its slice."""
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
        extended = is_extended(device)
        limit = min(limit, MAX_EXTENDED_DEVICES) if extended else limit
        if not chunks or len(chunks[-1]) >= limit:
            chunks.append([])
            limit = MAX_EXTENDED_DEVICES if extended else MAX_DEVICES
        chunks[-1].append(dict(device))
    return chunks


def _combined(pool: Pool) -> list[Part]:
    """A slice for each group of counter sets with common devices, then the devices without counters."""
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
            # Merge into the first: keeps the order of the pool.
            touched[0].update(*touched[1:])
            groups = [g for g in groups if not any(g is other for other in touched[1:])]
    return groups


def _sets_of(device: Mapping[str, Any]) -> set[str]:
    return {str(entry.get("counterSet")) for entry in device.get("consumesCounters") or ()}
