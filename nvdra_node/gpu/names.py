"""Canonical device names and MIG profile texts, to parts and back. Pure.

Names are identities in the API (driver, pool, device): they are upstream's, letter for letter, or allocations made
under one driver are unknown to the other.
"""

from __future__ import annotations

import re

import msgspec


class GpuName(msgspec.Struct, frozen=True, kw_only=True):
    """``gpu-<minor>``: a full GPU."""

    minor: int


class MigName(msgspec.Struct, frozen=True, kw_only=True):
    """``gpu-<minor>-mig-<label>-<profile id>-<start>``: a MIG device, existing or not."""

    parent_minor: int
    label: str
    """The profile as it stands in the name (``1g5gb-me``); informative, ``profile_id`` decides."""
    profile_id: int
    """The hardware's id of the GPU instance profile (19 for 1g.5gb), not NVML's enumerator."""
    start: int
    """First memory slice of the placement."""


class VfioName(msgspec.Struct, frozen=True, kw_only=True):
    """``gpu-vfio-<position>``: a GPU for passthrough, by its position among the node's GPUs on PCI."""

    position: int


class MigProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A MIG profile as users write it: ``<slices>g.<gigabytes>gb<suffix>``."""

    slices: int
    gigabytes: int
    suffix: str = ""
    """``+me``, ``+me.all``, ``+gfx``, ``-me`` or nothing."""

    def __str__(self) -> str:
        """The text form, ``1g.5gb+me``."""
        return f"{self.slices}g.{self.gigabytes}gb{self.suffix}"


PROFILE_SHAPES: dict[int, tuple[int, str]] = {
    0: (1, ""),
    1: (2, ""),
    2: (3, ""),
    3: (4, ""),
    4: (7, ""),
    5: (8, ""),
    6: (6, ""),
    7: (1, "+me"),
    8: (2, "+me"),
    9: (1, ""),
    10: (1, "+gfx"),
    11: (2, "+gfx"),
    12: (4, "+gfx"),
    13: (1, "-me"),
    14: (2, "-me"),
    15: (1, "+me.all"),
    16: (2, "+me.all"),
    17: (3, "+gfx"),
}
"""NVML_GPU_INSTANCE_PROFILE_* enumerator -> number of slices and suffix. Enumerators not named here are new."""

_GPU = re.compile(r"gpu-(\d+)")
_VFIO = re.compile(r"gpu-vfio-(\d+)")
_MIG = re.compile(r"gpu-(\d+)-mig-(.+)-(\d+)-(\d+)")
_PROFILE = re.compile(r"([1-9]\d*)g\.([1-9]\d*)gb(\+me\.all|\+me|\+gfx|-me)?")
_NOT_IN_LABELS = re.compile(r"[^a-z0-9.-]")


def gpu_name(minor: int) -> str:
    """Name of the full GPU at /dev/nvidia<minor>."""
    return f"gpu-{minor}"


def mig_name(parent_minor: int, profile: str, profile_id: int, start: int) -> str:
    """Name of a MIG device from its parent's minor, profile text, hardware profile id and placement start."""
    label = _NOT_IN_LABELS.sub("-", profile.replace(".", "").lower()).strip("-")
    return f"gpu-{parent_minor}-mig-{label}-{profile_id}-{start}"


def vfio_name(position: int) -> str:
    """Name of the passthrough device at that position."""
    return f"gpu-vfio-{position}"


def parse(name: str) -> GpuName | MigName | VfioName | None:
    """The parts of a canonical name; None when it is none of ours."""
    if match := _GPU.fullmatch(name):
        return GpuName(minor=int(match[1]))
    if match := _MIG.fullmatch(name):
        return MigName(
            parent_minor=int(match[1]),
            label=match[2],
            profile_id=int(match[3]),
            start=int(match[4]),
        )
    if match := _VFIO.fullmatch(name):
        return VfioName(position=int(match[1]))
    return None


def mig_profile(enumerator: int, memory_mb: int, total_bytes: int) -> MigProfile | None:
    """The profile from its NVML enumerator, its memory (MiB) and the GPU's memory; None: unknown enumerator.

    NVIDIA names a profile by its share of the GPU's memory, rounded up to eighths, of the GPU's size in GiB, rounded
    half away from zero; all in integers here, as floats would round 0.5 to even.
    """
    shape = PROFILE_SHAPES.get(enumerator)
    if shape is None or total_bytes <= 0:
        return None
    eighths = -(-8 * memory_mb * 2**20 // total_bytes)
    total_gib = -(-total_bytes // 2**30)
    return MigProfile(
        slices=shape[0], gigabytes=(2 * eighths * total_gib + 8) // 16, suffix=shape[1]
    )


def parse_profile(text: str) -> MigProfile | None:
    """``1g.5gb+me`` -> its parts; None when it is no such text."""
    match = _PROFILE.fullmatch(text)
    if match is None:
        return None
    return MigProfile(slices=int(match[1]), gigabytes=int(match[2]), suffix=match[3] or "")
