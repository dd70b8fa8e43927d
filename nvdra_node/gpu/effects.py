"""What preparing GPUs changes beside a CDI file, as data with a JSON form tagged by ``kind``. Pure.

``plan`` makes them, the journal stores them, ``apply`` brings them about and takes them back. To add a kind: a class
here, an entry in ``_KINDS``, its two steps in ``apply``. A kind that this release does not know was journalled by a
newer one; it is refused by name, so that a downgrade cannot silently leave something behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from nvdra_core.errors import HostError

DEFAULT_TIME_SLICE = 0
"""What a GPU has after its driver was loaded."""


class SetTimeSlice(msgspec.Struct, frozen=True, kw_only=True):
    """Let several processes use a GPU in turns of a given length. Ends with the boot (volatile)."""

    kind: ClassVar[str] = "setTimeSlice"

    uuid: str
    time_slice: int
    """0 default, 1 short, 2 medium, 3 long."""
    compute_mode: int | None = None
    """NVML_COMPUTEMODE_* before; None: not captured yet. Time-slicing needs 0 (default)."""
    driver: str = ""
    """``Sysfs.driver_instance`` when it was captured; empty in records of earlier releases."""

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        body: dict[str, Any] = {"kind": self.kind, "uuid": self.uuid, "timeSlice": self.time_slice}
        if self.compute_mode is not None:
            body["original"] = {"computeMode": self.compute_mode}
            if self.driver:
                body["original"]["driver"] = self.driver
        return body

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> SetTimeSlice:
        """From the journal. Raises KeyError, TypeError."""
        original = body.get("original", {})
        effect = cls(
            uuid=body["uuid"],
            time_slice=body["timeSlice"],
            compute_mode=original.get("computeMode"),
            driver=original.get("driver", ""),
        )
        numbers = (effect.time_slice, effect.compute_mode or 0)
        texts = (effect.uuid, effect.driver)
        if not all(isinstance(text, str) for text in texts) or not all(
            type(number) is int for number in numbers
        ):
            raise TypeError(f"{body!r}")
        return effect


GpuEffect = SetTimeSlice
"""Grows to a union: CreateMig (gate DynamicMIG), StartMps (MPSSupport), BindVfio (PassthroughSupport),
ActivatePartition (FabricManagerPartitioning)."""

_KINDS: Mapping[str, type[GpuEffect]] = {SetTimeSlice.kind: SetTimeSlice}


def decode(body: Mapping[str, Any]) -> GpuEffect:
    """An effect from its JSON. Raises HostError when this release does not know it."""
    kind = str(body.get("kind"))
    if kind not in _KINDS:
        raise HostError(
            f"a claim's record has an effect of kind {kind!r}, which this release does not know: "
            "install the release that prepared the claim, or a newer one"
        )
    try:
        return _KINDS[kind].from_json(body)
    except (KeyError, TypeError, AttributeError) as error:
        raise HostError(f"a claim's record has a malformed {kind} effect: {error!r}") from error
