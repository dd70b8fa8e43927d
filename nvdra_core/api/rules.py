"""Defaults and validation of configs: ``normalize``, then ``validate``. Pure.

The plugins and the webhook call both, so that the node refuses no admitted claim for its text alone. Errors are
InvalidConfigError with place, path, value and remedy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn

from msgspec.structs import replace

from nvdra_core import quantity
from nvdra_core.api.compute_domain import (
    AllocationMode,
    ComputeDomainChannelConfig,
    ComputeDomainDaemonConfig,
    ComputeDomainSpec,
)
from nvdra_core.api.decode import Config
from nvdra_core.api.device_configs import (
    GpuConfig,
    IommuBackendPolicy,
    IommuConfig,
    MigDeviceConfig,
    VfioDeviceConfig,
)
from nvdra_core.api.meta import QuantityText
from nvdra_core.api.sharing import (
    GpuSharing,
    Interval,
    MigSharing,
    MpsConfig,
    Strategy,
    TimeSlicingConfig,
)
from nvdra_core.errors import InvalidConfigError, MalformedTextError
from nvdra_core.gates import FeatureGates, Gate
from nvdra_core.openstruct import quote

GATE_OF_STRATEGY = {
    Strategy.TIME_SLICING: Gate.TIME_SLICING_SETTINGS,
    Strategy.MPS: Gate.MPS_SUPPORT,
}
_MIB = 1 << 20
_MAX_NODES = 2**31 - 1
_DEFAULT_LIMIT = "$.sharing.mpsConfig.defaultPinnedDeviceMemoryLimit"
_DEVICE_LIMIT = "$.sharing.mpsConfig.defaultPerDevicePinnedMemoryLimit"
_INDEX = re.compile(r"\+?[0-9]{1,9}")
_UUID = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/-]{1,96}")
_DOMAIN_ID = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?")
_OBJECT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_MAX_OBJECT_NAME = 253


def normalize(config: Config, gates: FeatureGates) -> Config:
    """Fill in the defaults: equal meaning becomes an equal value. Never fails; ``validate`` comes
    after.

    A strategy whose gate is off is left as it is, so that ``validate`` names the gate and nothing
    else.
    """
    if isinstance(config, GpuConfig):
        return replace(config, sharing=_normalize_gpu_sharing(config.sharing, gates))
    if isinstance(config, MigDeviceConfig):
        return replace(config, sharing=_normalize_mig_sharing(config.sharing, gates))
    if isinstance(config, VfioDeviceConfig):
        return replace(config, iommu=_normalize_iommu(config.iommu or IommuConfig()))
    if isinstance(config, ComputeDomainChannelConfig):
        return replace(config, allocation_mode=config.allocation_mode or AllocationMode.SINGLE)
    return config


def _normalize_gpu_sharing(sharing: GpuSharing | None, gates: FeatureGates) -> GpuSharing | None:
    if sharing is None or not gates.enabled(GATE_OF_STRATEGY[sharing.strategy]):
        return sharing
    if sharing.strategy is Strategy.MPS:
        return replace(sharing, mps_config=_normalize_mps(sharing.mps_config))
    # Upstream fills in only a missing block, and crashes on an empty one.
    settings = sharing.time_slicing_config or TimeSlicingConfig()
    settings = replace(settings, interval=settings.interval or Interval.DEFAULT)
    return replace(sharing, time_slicing_config=settings)


def _normalize_mig_sharing(sharing: MigSharing | None, gates: FeatureGates) -> MigSharing | None:
    if sharing is None or not gates.enabled(GATE_OF_STRATEGY[sharing.strategy]):
        return sharing
    if sharing.strategy is Strategy.MPS:
        return replace(sharing, mps_config=_normalize_mps(sharing.mps_config))
    return sharing


def _normalize_mps(mps: MpsConfig | None) -> MpsConfig:
    mps = mps or MpsConfig()
    limit, limits = (
        mps.default_pinned_device_memory_limit,
        mps.default_per_device_pinned_memory_limit,
    )
    return replace(
        mps,
        default_pinned_device_memory_limit=None if limit is None else _canonical(limit),
        default_per_device_pinned_memory_limit={
            key: _canonical(value) for key, value in sorted((limits or {}).items())
        }
        or None,
        multi_user=mps.multi_user or None,
    )


def _canonical(limit: QuantityText) -> QuantityText:
    try:
        return str(quantity.parse(str(limit)))
    except MalformedTextError:
        return limit  # validate refuses it, and can quote what the user wrote


def _normalize_iommu(iommu: IommuConfig) -> IommuConfig:
    return IommuConfig(
        backend_policy=iommu.backend_policy or IommuBackendPolicy.LEGACY_ONLY,
        enable_api_device=bool(iommu.enable_api_device),
    )


def validate(config: Config, gates: FeatureGates, *, where: str = "opaque config") -> None:
    """Refuse what cannot be done, whatever the devices are. Raises InvalidConfigError."""
    if isinstance(config, GpuConfig | MigDeviceConfig):
        if config.sharing is not None:
            _validate_sharing(config.sharing, gates, where)
    elif isinstance(config, ComputeDomainChannelConfig | ComputeDomainDaemonConfig):
        _validate_domain_id(config.domain_id, where)


def _validate_sharing(sharing: GpuSharing | MigSharing, gates: FeatureGates, where: str) -> None:
    strategy = sharing.strategy
    gate = GATE_OF_STRATEGY[strategy]
    if not gates.enabled(gate):
        _refuse(
            where,
            "$.sharing.strategy",
            f"{quote(strategy)} needs the feature gate {gate.value}, which is off; "
            f"drop sharing, or have an administrator set {gate.value}=true",
        )
    mps = sharing.mps_config
    stray = None
    if strategy is not Strategy.MPS and mps is not None:
        stray = "mpsConfig"
    elif isinstance(sharing, GpuSharing) and strategy is Strategy.MPS:
        stray = "timeSlicingConfig" if sharing.time_slicing_config is not None else None
    if stray:
        _refuse(
            where, f"$.sharing.{stray}", f"does not go with strategy {strategy.value}; drop one"
        )
    if mps is not None:
        _validate_mps(mps, where)


def _validate_mps(mps: MpsConfig, where: str) -> None:
    percentage = mps.default_active_thread_percentage
    if percentage is not None and not 0 <= percentage <= 100:
        path = "$.sharing.mpsConfig.defaultActiveThreadPercentage"
        _refuse(where, path, f"{quote(percentage)} is out of range; use 0 to 100")
    if mps.default_pinned_device_memory_limit is not None:
        _limit_mib(mps.default_pinned_device_memory_limit, where, _DEFAULT_LIMIT)
    for key, limit in (mps.default_per_device_pinned_memory_limit or {}).items():
        path = f"{_DEVICE_LIMIT}[{quote(key)}]"
        if not _INDEX.fullmatch(key) and not _UUID.fullmatch(key):
            _refuse(where, path, "is no device; use a UUID (GPU-... or MIG-...) or an index from 0")
        _limit_mib(limit, where, path)


def _limit_mib(limit: QuantityText, where: str, path: str) -> int:
    try:
        amount = quantity.parse(str(limit)).floor() // _MIB
    except MalformedTextError as error:
        raise InvalidConfigError(f"{where}: {path}: {error}") from error
    if amount < 1:
        _refuse(where, path, f"{quote(limit)} is too small; MPS counts in MiB, use at least 1Mi")
    return amount


def pinned_limits(mps: MpsConfig, uuids: Sequence[str], *, where: str) -> dict[str, str]:
    """Pinned-memory limit of each device, as ``set_default_device_pinned_mem_limit`` takes it
    (``1024M``).

    ``uuids``: the devices of the config's group, any order; an index counts in their sorted order.
    A limit for one device beats the limit for all. Raises InvalidConfigError on a device that is
    not there, or is named twice with different limits (upstream takes either one, at random).
    """
    ordered = sorted(uuids)
    limits: dict[str, str] = {}
    if mps.default_pinned_device_memory_limit is not None:
        amount = _limit_mib(mps.default_pinned_device_memory_limit, where, _DEFAULT_LIMIT)
        limits = dict.fromkeys(ordered, f"{amount}M")
    named: dict[str, str] = {}
    for key, limit in (mps.default_per_device_pinned_memory_limit or {}).items():
        path = f"{_DEVICE_LIMIT}[{quote(key)}]"
        uuid = _device(key, ordered)
        if uuid is None:
            _refuse(
                where, path, f"is no device of this claim; it has {', '.join(ordered) or 'none'}"
            )
        text = f"{_limit_mib(limit, where, path)}M"
        if named.setdefault(uuid, text) != text:
            _refuse(where, path, f"{uuid} has two limits, {named[uuid]} and {text}; name it once")
    return limits | named


def _device(key: str, ordered: Sequence[str]) -> str | None:
    if key in ordered:
        return key
    if _INDEX.fullmatch(key) and int(key) < len(ordered):
        return ordered[int(key)]
    return None


def validate_compute_domain(spec: ComputeDomainSpec, *, where: str = "ComputeDomain") -> None:
    """Refuse a ComputeDomain that the controller could not serve. Raises InvalidConfigError."""
    if not 0 <= spec.num_nodes <= _MAX_NODES:
        _refuse(where, "$.spec.numNodes", f"{spec.num_nodes} is out of range; use 0 or more")
    name = spec.channel.resource_claim_template.name
    if len(name) > _MAX_OBJECT_NAME or not _OBJECT_NAME.fullmatch(name):
        path = "$.spec.channel.resourceClaimTemplate.name"
        _refuse(where, path, f"{quote(name)} is no object name; use a-z, 0-9, - and .")


def _validate_domain_id(domain_id: str, where: str) -> None:
    if not domain_id:
        _refuse(where, "$.domainID", "is empty; give the UID of the ComputeDomain")
    # It becomes part of paths and unit names, so nothing but a UID may pass.
    if not _DOMAIN_ID.fullmatch(domain_id):
        _refuse(
            where, "$.domainID", f"{quote(domain_id)} is no UID; give that of the ComputeDomain"
        )


def _refuse(where: str, path: str, problem: str) -> NoReturn:
    raise InvalidConfigError(f"{where}: {path}: {problem}")
