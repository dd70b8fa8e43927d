"""Which devices of a pool can be published to this API server, as far as known. State of ``publisher``; no I/O.

Tracks the fields that the server drops (feature gates that are off), the devices that it refuses, and what it stored
in place of what was sent, so that the same content is not written again and again. All of it may change with an
upgrade or a gate: ``probe`` returns what to try again, ``accepted`` and ``rejected`` take the outcome.
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


def required_gates(device: Mapping[str, Any]) -> frozenset[str]:
    """Gates without which the scheduler would allocate a device to claims that must not get it."""
    gates = set()
    if any(taint.get("effect") in BLOCKING_EFFECTS for taint in device.get("taints") or ()):
        gates.add("DRADeviceTaints")
    if device.get("consumesCounters"):
        gates.add("DRAPartitionableDevices")
    if device.get("bindingConditions"):
        gates.add("DRADeviceBindingConditions")
    return frozenset(gates)


def refused_devices(error: ApiError, body: JsonObject) -> list[JsonObject]:
    """The devices of ``body`` that an Invalid response (422) names."""
    if error.status != 422:
        return []
    devices = body["spec"].get("devices") or []
    indexes = {int(index) for index in _DEVICE_PATH.findall(str(error))}
    return [devices[index] for index in sorted(indexes) if index < len(devices)]


class DeviceSet:
    """See the module."""

    def __init__(self) -> None:
        self.dropped: frozenset[str] = frozenset()
        """Gates whose fields the server drops."""
        self._confirmed: frozenset[str] = frozenset()
        self._refused: dict[str, tuple[JsonObject, str]] = {}
        self._stored: dict[int, tuple[Part, Part]] = {}
        """By index: a part as it was sent, and as the server stored it."""
        self._probes = 0

    def publishable(self, pool: Pool) -> Pool:
        """The pool without the devices that are left out."""
        devices = tuple(device for device in pool.devices if not self._reason(device))
        counters = pool.shared_counters
        if "DRAPartitionableDevices" in self.dropped:
            counters = ()
        return replace(pool, devices=devices, shared_counters=counters)

    def left_out(self, pool: Pool) -> dict[str, str]:
        """The devices that ``publishable`` leaves out, and the reasons."""
        return {d["name"]: reason for d in pool.devices if (reason := self._reason(d))}

    def unconfirmed(self, part: Part) -> frozenset[str]:
        """Gates that devices of this part require, and that the server is not known to have or to lack."""
        required = frozenset(
            g for device in part.get("devices", ()) for g in required_gates(device)
        )
        return required - self._confirmed - self.dropped

    def confirm(self, gates: frozenset[str]) -> None:
        """The server has these gates."""
        self._confirmed |= gates

    def drop(self, gates: frozenset[str]) -> frozenset[str]:
        """The server lacks these gates; returns those that were not known to be lacking."""
        new = gates - self.dropped
        self.dropped |= gates
        self._confirmed -= gates
        return new

    def is_unsafe(self, gates: frozenset[str], part: Part) -> bool:
        """Whether a part has devices that must not be published without these gates."""
        return any(gates & required_gates(device) for device in part.get("devices", ()))

    def refuse(self, device: JsonObject, reason: str) -> None:
        """The server refused this device as it is."""
        self._refused[device["name"]] = (_without_times(device), reason)

    def adopt(self, index: int, sent: Part, stored: JsonObject) -> None:
        """The server stored a part differently: expect that from now on."""
        spec = stored["spec"]
        kept = {key: spec[key] for key in ("devices", "sharedCounters") if spec.get(key)}
        self._stored[index] = (sent, kept)

    def as_stored(self, parts: Sequence[Part]) -> tuple[Part, ...]:
        """The parts as the server is known to store them."""
        expected = []
        for index, part in enumerate(parts):
            sent, stored = self._stored.get(index, (None, part))
            expected.append(stored if sent == part else part)
        return tuple(expected)

    @property
    def has_losses(self) -> bool:
        """Whether anything was dropped or refused."""
        return bool(self.dropped or self._refused)

    def probe(self, parts: Sequence[Part]) -> Part | None:
        """One of ``parts`` (the layout of the whole pool) to try again; each call returns another one.

        Refused devices and dropped fields are probed separately: a refusal of one device hides what happens to others.
        """
        probes: list[Part] = []
        for part in parts:
            devices = part.get("devices", ())
            if any(self._is_refused(device) for device in devices):
                probes.append(part)
            accepted = [device for device in devices if not self._is_refused(device)]
            others = {key: value for key, value in part.items() if key != "devices"}
            rest = {**others, "devices": accepted} if accepted else others
            if rest and self.dropped & diff.uses(rest):
                probes.append(rest)
        if not probes:
            return None
        self._probes += 1
        return probes[self._probes % len(probes)]

    def accepted(self, part: Part, dropped: frozenset[str]) -> bool:
        """A probe succeeded, less the fields of ``dropped``; whether the server accepts more than before."""
        recovered = (self.dropped & diff.uses(part)) - dropped
        if recovered:
            self.dropped -= recovered
            self._stored.clear()
        return self._readmit(part, ()) or bool(recovered)

    def rejected(self, part: Part, devices: Sequence[JsonObject]) -> bool:
        """A probe failed because of ``devices``; whether the server accepts others that it refused before."""
        return bool(devices) and self._readmit(part, [device["name"] for device in devices])

    def _readmit(self, part: Part, refused: Sequence[str]) -> bool:
        names = [d["name"] for d in part.get("devices", ()) if d["name"] not in refused]
        readmitted = [name for name in names if self._refused.pop(name, None) is not None]
        return bool(readmitted)

    def _is_refused(self, device: Mapping[str, Any]) -> bool:
        known = self._refused.get(device["name"])
        return known is not None and known[0] == _without_times(device)

    def _reason(self, device: Mapping[str, Any]) -> str:
        if lacking := sorted(required_gates(device) & self.dropped):
            return f"the API server lacks {', '.join(lacking)}"
        return self._refused[device["name"]][1] if self._is_refused(device) else ""


def _without_times(device: Mapping[str, Any]) -> JsonObject:
    """A device without ``timeAdded`` of its taints, which the server sets."""
    if not device.get("taints"):
        return dict(device)
    taints = [{k: v for k, v in taint.items() if k != "timeAdded"} for taint in device["taints"]]
    return {**device, "taints": taints}
