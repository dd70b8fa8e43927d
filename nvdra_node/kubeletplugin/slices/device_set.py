"""What of a pool can be offered to this API server, as far as known. State of ``publisher``; does no I/O.

Knows which fields the server drops (feature gates that are off), which devices it refuses, and what it stored in the
place of what was sent, so that the same thing is not written for ever. None of that is for good: servers are upgraded
and gates turned on. ``probe`` says what to try again, ``tried`` and ``refused_again`` take the result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from nvdra_core.errors import ApiError
from nvdra_node.kubeletplugin.driver import Pool
from nvdra_node.kubeletplugin.slices import diff
from nvdra_node.kubeletplugin.slices.layout import JsonObject, Part

BLOCKING_EFFECTS = frozenset({"NoSchedule", "NoExecute"})
_DEVICE_PATH = re.compile(r"spec\.devices\[(\d+)\]")


def guards(device: Mapping[str, Any]) -> frozenset[str]:
    """Gates without which a device would be offered to claims that must not get it."""
    found = set()
    if any(taint.get("effect") in BLOCKING_EFFECTS for taint in device.get("taints") or ()):
        found.add("DRADeviceTaints")
    if device.get("consumesCounters"):
        found.add("DRAPartitionableDevices")
    if device.get("bindingConditions"):
        found.add("DRADeviceBindingConditions")
    return frozenset(found)


def refused_devices(error: ApiError, body: JsonObject) -> list[JsonObject]:
    """The devices of ``body`` that an Invalid answer names; none when it is about something else."""
    if error.status != 422:
        return []
    devices = body["spec"].get("devices") or []
    indexes = {int(index) for index in _DEVICE_PATH.findall(str(error))}
    return [devices[index] for index in sorted(indexes) if index < len(devices)]


class Offer:
    """See the module."""

    def __init__(self) -> None:
        self.dropped: frozenset[str] = frozenset()
        self._proven: frozenset[str] = frozenset()
        self._refused: dict[str, tuple[JsonObject, str]] = {}
        self._adopted: dict[int, tuple[Part, Part]] = {}
        self._probes = 0

    def reduce(self, pool: Pool) -> Pool:
        """The pool without what cannot be offered."""
        devices = tuple(device for device in pool.devices if not self._why_not(device))
        counters = pool.shared_counters
        if "DRAPartitionableDevices" in self.dropped:
            counters = ()
        return replace(pool, devices=devices, shared_counters=counters)

    def left_out(self, pool: Pool) -> dict[str, str]:
        """The devices that ``reduce`` takes away, and why."""
        return {d["name"]: why for d in pool.devices if (why := self._why_not(d))}

    def unproven(self, part: Part) -> frozenset[str]:
        """Gates that guard devices of this part, and of which it is not known that the server has them."""
        needed = frozenset(gate for device in part.get("devices", ()) for gate in guards(device))
        return needed - self._proven - self.dropped

    def prove(self, gates: frozenset[str]) -> None:
        """The server has these."""
        self._proven |= gates

    def drop(self, gates: frozenset[str]) -> frozenset[str]:
        """The server lacks these; returns the ones that are news."""
        new = gates - self.dropped
        self.dropped |= gates
        self._proven -= gates
        return new

    def is_unsafe(self, gates: frozenset[str], part: Part) -> bool:
        """Whether a part must not stay as it is without these gates."""
        return any(gates & guards(device) for device in part.get("devices", ()))

    def refuse(self, device: JsonObject, why: str) -> None:
        """The server does not take this device as it is."""
        self._refused[device["name"]] = (_timeless(device), why)

    def adopt(self, index: int, sent: Part, stored: JsonObject) -> None:
        """What the server made of a part: this is what must be stored from now on."""
        spec = stored["spec"]
        kept = {key: spec[key] for key in ("devices", "sharedCounters") if spec.get(key)}
        self._adopted[index] = (sent, kept)

    def as_stored(self, parts: Sequence[Part]) -> tuple[Part, ...]:
        """What the API server makes of the parts, as far as known."""
        return tuple(
            self._adopted[index][1]
            if index in self._adopted and self._adopted[index][0] == part
            else part
            for index, part in enumerate(parts)
        )

    @property
    def has_losses(self) -> bool:
        """Whether anything was dropped or refused."""
        return bool(self.dropped or self._refused)

    def probe(self, parts: Sequence[Part]) -> Part | None:
        """Of ``parts``, the layout of the whole pool, one to try again; each call another one. Devices that are refused
        and fields that are dropped take turns, since a refusal of one device hides what becomes of the others."""
        found: list[Part] = []
        for part in parts:
            devices = part.get("devices", ())
            if any(self._is_refused(device) for device in devices):
                found.append(part)
            taken = [device for device in devices if not self._is_refused(device)]
            rest = (
                {**part, "devices": taken}
                if taken
                else {k: v for k, v in part.items() if k != "devices"}
            )
            if self.dropped & diff.uses(rest) and rest:
                found.append(rest)
        if not found:
            return None
        self._probes += 1
        return found[self._probes % len(found)]

    def tried(self, part: Part, dropped: frozenset[str]) -> bool:
        """The server would store a probe, less these gates' fields; whether it takes more than before."""
        recovered = (self.dropped & diff.uses(part)) - dropped
        if recovered:
            self.dropped -= recovered
            self._adopted.clear()
        return self._admit(part, ()) or bool(recovered)

    def refused_again(self, part: Part, devices: Sequence[JsonObject]) -> bool:
        """The server refuses these devices of a probe; whether it takes others that it refused before."""
        return bool(devices) and self._admit(part, [device["name"] for device in devices])

    def _admit(self, part: Part, refused: Sequence[str]) -> bool:
        names = [d["name"] for d in part.get("devices", ()) if d["name"] not in refused]
        admitted = [name for name in names if self._refused.pop(name, None) is not None]
        return bool(admitted)

    def _is_refused(self, device: Mapping[str, Any]) -> bool:
        known = self._refused.get(device["name"])
        return known is not None and known[0] == _timeless(device)

    def _why_not(self, device: Mapping[str, Any]) -> str:
        if lacking := sorted(guards(device) & self.dropped):
            return f"the API server lacks {', '.join(lacking)}"
        return self._refused[device["name"]][1] if self._is_refused(device) else ""


def _timeless(device: Mapping[str, Any]) -> JsonObject:
    """A device without the times that a server added to its taints."""
    if not device.get("taints"):
        return dict(device)
    taints = [{k: v for k, v in taint.items() if k != "timeAdded"} for taint in device["taints"]]
    return {**device, "taints": taints}
