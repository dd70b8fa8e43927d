"""Types of the API groups resource.nvidia.com/v1beta1 and fabric.nvdra.io/v1alpha1, and the one
decoder and rule book for them.

Enter at ``decode_strict`` (what users wrote) or ``decode_lenient`` (our records), then
``normalize``, then ``validate``. This package alone imports msgspec, which costs 3 MB: the node
imports it when the first claim carries a config.
"""

from nvdra_core.api.compute_domain import (
    AllocationMode,
    CliqueDaemon,
    ComputeDomainAssignment,
    ComputeDomainChannelConfig,
    ComputeDomainClique,
    ComputeDomainDaemonConfig,
    ComputeDomainNode,
    ComputeDomainSpec,
    ComputeDomainState,
    ComputeDomainStatus,
    Condition,
)
from nvdra_core.api.decode import (
    CONFIGS_OF_DRIVER,
    Config,
    canonical_key,
    decode_lenient,
    decode_part,
    decode_strict,
    encode,
)
from nvdra_core.api.device_configs import (
    GpuConfig,
    IommuBackendPolicy,
    IommuConfig,
    MigDeviceConfig,
    VfioDeviceConfig,
)
from nvdra_core.api.fabric import (
    FABRIC_API_VERSION,
    FABRIC_NODE_KIND,
    FabricCertificate,
    FabricClaim,
    FabricDomain,
    FabricDomainStatus,
    FabricNodeSpec,
    FabricNodeStatus,
    FabricSlot,
    FabricState,
    FormerSlot,
    ImexIncarnation,
    ImexState,
    ImexStatus,
    Isolation,
)
from nvdra_core.api.meta import API_VERSION, COMPUTE_DOMAIN_DRIVER, GPU_DRIVER
from nvdra_core.api.rules import normalize, pinned_limits, validate, validate_compute_domain
from nvdra_core.api.sharing import (
    GpuSharing,
    Interval,
    MigSharing,
    MpsConfig,
    Strategy,
    TimeSlicingConfig,
)

__all__ = [
    "API_VERSION",
    "COMPUTE_DOMAIN_DRIVER",
    "CONFIGS_OF_DRIVER",
    "FABRIC_API_VERSION",
    "FABRIC_NODE_KIND",
    "GPU_DRIVER",
    "AllocationMode",
    "CliqueDaemon",
    "ComputeDomainAssignment",
    "ComputeDomainChannelConfig",
    "ComputeDomainClique",
    "ComputeDomainDaemonConfig",
    "ComputeDomainNode",
    "ComputeDomainSpec",
    "ComputeDomainState",
    "ComputeDomainStatus",
    "Condition",
    "Config",
    "FabricCertificate",
    "FabricClaim",
    "FabricDomain",
    "FabricDomainStatus",
    "FabricNodeSpec",
    "FabricNodeStatus",
    "FabricSlot",
    "FabricState",
    "FormerSlot",
    "GpuConfig",
    "GpuSharing",
    "ImexIncarnation",
    "ImexState",
    "ImexStatus",
    "Interval",
    "IommuBackendPolicy",
    "IommuConfig",
    "Isolation",
    "MigDeviceConfig",
    "MigSharing",
    "MpsConfig",
    "Strategy",
    "TimeSlicingConfig",
    "VfioDeviceConfig",
    "canonical_key",
    "decode_lenient",
    "decode_part",
    "decode_strict",
    "encode",
    "normalize",
    "pinned_limits",
    "validate",
    "validate_compute_domain",
]
