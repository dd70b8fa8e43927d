"""Types of the API group resource.nvidia.com/v1beta1, and the one decoder and rule book for them.

Enter at ``decode_strict`` (what users wrote) or ``decode_lenient`` (our records), then
``normalize``, then ``validate``. This package alone imports msgspec, which costs 3 MB: the node
imports it when the first claim carries a config.
"""

from nvdra_core.api.compute_domain import (
    AllocationMode,
    CliqueDaemon,
    ComputeDomainChannelConfig,
    ComputeDomainClique,
    ComputeDomainDaemonConfig,
    ComputeDomainNode,
    ComputeDomainSpec,
    ComputeDomainState,
    ComputeDomainStatus,
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
    "GPU_DRIVER",
    "AllocationMode",
    "CliqueDaemon",
    "ComputeDomainChannelConfig",
    "ComputeDomainClique",
    "ComputeDomainDaemonConfig",
    "ComputeDomainNode",
    "ComputeDomainSpec",
    "ComputeDomainState",
    "ComputeDomainStatus",
    "Config",
    "GpuConfig",
    "GpuSharing",
    "Interval",
    "IommuBackendPolicy",
    "IommuConfig",
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
