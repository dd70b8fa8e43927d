"""Configs to test with: one valid object of each kind, with every field set."""

from typing import Any

from nvdra_core.api import API_VERSION
from nvdra_core.gates import FeatureGates

ALL_STRATEGIES = FeatureGates.of(TimeSlicingSettings=True, MPSSupport=True)
DOMAIN_UID = "0e8a1b1c-9f0e-4a58-9d44-6f5d2c1d9a10"
MPS: dict[str, Any] = {
    "defaultActiveThreadPercentage": 50,
    "defaultPinnedDeviceMemoryLimit": "10Gi",
    "defaultPerDevicePinnedMemoryLimit": {"0": "5Gi", "GPU-b": 1073741824},
    "multiUser": True,
}


def a_config(kind: str, **fields: Any) -> dict[str, Any]:
    """An opaque config as a user writes it."""
    return {"apiVersion": API_VERSION, "kind": kind, **fields}


def a_gpu_config(**sharing: Any) -> dict[str, Any]:
    """A GpuConfig with this ``sharing``."""
    return a_config("GpuConfig", sharing=sharing)


FULL: dict[str, dict[str, Any]] = {
    "GpuConfig/TimeSlicing": a_gpu_config(
        strategy="TimeSlicing", timeSlicingConfig={"interval": "Long"}
    ),
    "GpuConfig/MPS": a_gpu_config(strategy="MPS", mpsConfig=MPS),
    "MigDeviceConfig": a_config("MigDeviceConfig", sharing={"strategy": "MPS", "mpsConfig": MPS}),
    "VfioDeviceConfig": a_config(
        "VfioDeviceConfig", iommu={"backendPolicy": "PreferIommuFD", "enableAPIDevice": True}
    ),
    "ComputeDomainChannelConfig": a_config(
        "ComputeDomainChannelConfig", domainID=DOMAIN_UID, allocationMode="All"
    ),
    "ComputeDomainDaemonConfig": a_config("ComputeDomainDaemonConfig", domainID=DOMAIN_UID),
}
