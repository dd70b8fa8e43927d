"""Opaque configs of the driver gpu.nvidia.com. Data only; read by ``decode``, judged by
``rules``.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from nvdra_core.api.meta import ApiStruct
from nvdra_core.api.sharing import GpuSharing, MigSharing


class GpuConfig(ApiStruct, frozen=True, tag_field="kind", tag="GpuConfig"):
    """How full GPUs are prepared."""

    sharing: GpuSharing | None = None


class MigDeviceConfig(ApiStruct, frozen=True, tag_field="kind", tag="MigDeviceConfig"):
    """How MIG devices are prepared."""

    sharing: MigSharing | None = None


class IommuBackendPolicy(str, Enum):
    """Which kernel interface a virtual machine monitor gets for a passthrough GPU."""

    UNSET = ""
    """Not written by the user; becomes LegacyOnly."""
    LEGACY_ONLY = "LegacyOnly"
    PREFER_IOMMUFD = "PreferIommuFD"


class IommuConfig(ApiStruct, frozen=True):
    """The IOMMU side of passthrough."""

    backend_policy: IommuBackendPolicy | None = None
    enable_api_device: bool | None = msgspec.field(default=None, name="enableAPIDevice")
    """Also give ``/dev/vfio/vfio`` or ``/dev/iommu``."""


class VfioDeviceConfig(ApiStruct, frozen=True, tag_field="kind", tag="VfioDeviceConfig"):
    """How passthrough GPUs are prepared."""

    iommu: IommuConfig | None = None
