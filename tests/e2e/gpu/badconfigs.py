"""Invalid opaque configs, and what the pod's event must contain for each. Data for ``test_bad_input``.

Each field of each kind is wrong, empty, of another type or misspelt at least once. For combinations and random
JSON see ``tests/unit/api/test_decode.py``.
"""

from __future__ import annotations

from typing import Any

API_VERSION = "resource.nvidia.com/v1beta1"
Json = dict[str, Any]


def of_kind(kind: str, **fields: Any) -> Json:
    """A config."""
    return {"apiVersion": API_VERSION, "kind": kind, **fields}


def gpu(**sharing: Any) -> Json:
    """A GpuConfig that shares."""
    return of_kind("GpuConfig", sharing=sharing)


def mig(**sharing: Any) -> Json:
    """A MigDeviceConfig that shares."""
    return of_kind("MigDeviceConfig", sharing=sharing)


def time_slicing(settings: Any) -> Json:
    """A GpuConfig with these time slicing settings."""
    return gpu(strategy="TimeSlicing", timeSlicingConfig=settings)


def mps(**settings: Any) -> Json:
    """A GpuConfig with these MPS settings."""
    return gpu(strategy="MPS", mpsConfig=settings)


def vfio(iommu: Any) -> Json:
    """A VfioDeviceConfig."""
    return of_kind("VfioDeviceConfig", iommu=iommu)


_PERCENTAGE = "$.sharing.mpsConfig.defaultActiveThreadPercentage"
_LIMIT = "$.sharing.mpsConfig.defaultPinnedDeviceMemoryLimit"
_LIMITS = "$.sharing.mpsConfig.defaultPerDevicePinnedMemoryLimit"
_OTHER_KIND = ("names request gpu", "takes another kind of config")

REFUSED: dict[str, tuple[Json, tuple[str, ...]]] = {
    "nothing": ({}, ("$.apiVersion: missing", f"add apiVersion: {API_VERSION}")),
    "api-version": (
        {"apiVersion": "resource.nvidia.com/v1", "kind": "GpuConfig"},
        ('$.apiVersion: "resource.nvidia.com/v1"', f"use {API_VERSION}"),
    ),
    "no-kind": ({"apiVersion": API_VERSION}, ("$.kind: missing", "add kind: GpuConfig")),
    "empty-kind": (of_kind(""), ('$.kind: ""', "use GpuConfig")),
    "unknown-kind": (of_kind("Pod"), ('$.kind: "Pod"', "use GpuConfig")),
    "kind-of-domain": (
        of_kind("ComputeDomainChannelConfig", domainID="d"),
        ("is not for driver gpu.nvidia.com", "set driver: compute-domain.nvidia.com"),
    ),
    "field": (of_kind("GpuConfig", colour="green"), ('unknown field "colour"', "known are: sharing")),
    "case": (of_kind("GpuConfig", Sharing={}), ('unknown field "Sharing"', "write sharing")),
    "sharing-type": (of_kind("GpuConfig", sharing="yes"), ('$.sharing: expected an object, got "yes"',)),
    "no-strategy": (gpu(), ("$.sharing.strategy: missing", "use TimeSlicing or MPS")),
    "strategy": (gpu(strategy="Fair"), ('$.sharing.strategy: "Fair"', "use TimeSlicing or MPS")),
    "empty-strategy": (gpu(strategy=""), ('$.sharing.strategy: ""', "use TimeSlicing or MPS")),
    "strategy-type": (gpu(strategy=1), ("$.sharing.strategy: 1", "use TimeSlicing or MPS")),
    "slicing-type": (time_slicing("Long"), ('timeSlicingConfig: expected an object, got "Long"',)),
    "slicing-field": (time_slicing({"length": 2}), ('unknown field "length"', "known are: interval")),
    "interval": (time_slicing({"interval": "Ever"}), ('interval: "Ever"', "Default or Short")),
    "empty-interval": (time_slicing({"interval": ""}), ('interval: ""', "Default or Short")),
    "interval-type": (time_slicing({"interval": 3}), ("interval: 3", "Default or Short")),
    "mps-in-slicing": (
        gpu(strategy="TimeSlicing", mpsConfig={}),
        ("$.sharing.mpsConfig: does not go with strategy TimeSlicing", "drop one"),
    ),
    "slicing-in-mps": (
        gpu(strategy="MPS", timeSlicingConfig={}),
        ("$.sharing.timeSlicingConfig: does not go with strategy MPS", "drop one"),
    ),
    "mps-type": (gpu(strategy="MPS", mpsConfig=[]), ("$.sharing.mpsConfig: expected an object",)),
    "mps-field": (mps(threads=50), ('unknown field "threads"', "defaultActiveThreadPercentage")),
    "percentage": (mps(defaultActiveThreadPercentage=101), (f"{_PERCENTAGE}: 101", "use 0 to 100")),
    "percentage-type": (mps(defaultActiveThreadPercentage="50"), (f'{_PERCENTAGE}: expected a whole number, got "50"',)),
    "limit": (mps(defaultPinnedDeviceMemoryLimit="lots"), (_LIMIT, "'lots' is no quantity", "512Mi")),
    "small-limit": (mps(defaultPinnedDeviceMemoryLimit="1Ki"), (f'{_LIMIT}: "1Ki" is too small', "at least 1Mi")),
    "limit-type": (mps(defaultPinnedDeviceMemoryLimit=True), (f"{_LIMIT}: expected a quantity such as 512Mi",)),
    "limits-type": (mps(defaultPerDevicePinnedMemoryLimit="1Gi"), (f'{_LIMITS}: expected an object, got "1Gi"',)),
    "limits-device": (mps(defaultPerDevicePinnedMemoryLimit={"x": "1Gi"}), (f'{_LIMITS}["x"]', "use a UUID")),
    "limits-value": (mps(defaultPerDevicePinnedMemoryLimit={"0": "x"}), (f'{_LIMITS}["0"]', "'x' is no quantity")),
    "multi-user": (mps(multiUser="yes"), ('multiUser: expected true or false, got "yes"',)),
    "mig-for-gpu": (of_kind("MigDeviceConfig"), _OTHER_KIND),
    "mig-type": (of_kind("MigDeviceConfig", sharing=[]), ("$.sharing: expected an object, got []",)),
    "mig-strategy": (mig(strategy="Fair"), ('$.sharing.strategy: "Fair"', "use TimeSlicing or MPS")),
    "mig-slicing": (
        mig(strategy="TimeSlicing", timeSlicingConfig={}),
        ('unknown field "timeSlicingConfig"', "known are: strategy, mpsConfig"),
    ),
    "mig-percentage": (
        mig(strategy="MPS", mpsConfig={"defaultActiveThreadPercentage": "all"}),
        (f'{_PERCENTAGE}: expected a whole number, got "all"',),
    ),
    "vfio-for-gpu": (vfio({"backendPolicy": "LegacyOnly"}), _OTHER_KIND),
    "vfio-type": (vfio("on"), ('$.iommu: expected an object, got "on"',)),
    "vfio-backend": (vfio({"backendPolicy": "Fast"}), ('$.iommu.backendPolicy: "Fast"', "use LegacyOnly")),
    "vfio-device": (vfio({"enableAPIDevice": "yes"}), ('enableAPIDevice: expected true or false, got "yes"',)),
    "vfio-case": (vfio({"enableApiDevice": True}), ('unknown field "enableApiDevice"', "write enableAPIDevice")),
}  # fmt: skip
"""Name -> parameters, and words that the event must have beside the claim's name."""

ACCEPTED: dict[str, Json] = {
    "bare": of_kind("GpuConfig"),
    "null-sharing": of_kind("GpuConfig", sharing=None),
    "no-settings": gpu(strategy="TimeSlicing"),
    "empty-settings": time_slicing({}),
    "null-interval": time_slicing({"interval": None}),
    "long": time_slicing({"interval": "Long"}),
}
"""Valid configs that resemble some of those."""
