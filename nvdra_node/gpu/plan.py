"""Claim + catalog -> Plan: devices, configs and holds; what changes on the host is each kind's decision. Pure.

Refuses before anything is changed: unknown devices, configs that are invalid or for other devices, and features whose
gate is off. An unhealthy GPU is not refused: its taint keeps claims away that do not tolerate it, and one that does, or
that has admin access to all GPUs, gets its device node. Results with admin access get the device and nothing else: no
hold, no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nvdra_core import api
from nvdra_core.api import Config
from nvdra_core.errors import InvalidConfigError
from nvdra_core.gates import FeatureGates
from nvdra_node.checkpoint.claim import Claim, OpaqueConfig
from nvdra_node.checkpoint.model import PreparedDevice, Record
from nvdra_node.gpu.catalog import Catalog
from nvdra_node.gpu.kinds.base import Allotment, DeviceKind, KindPlan
from nvdra_node.kubeletplugin.claims import config_choice
from nvdra_node.kubeletplugin.claims import effects as effect_rules
from nvdra_node.kubeletplugin.driver import Effect, Plan

CDI_KIND = "k8s.gpu.nvidia.com/claim"

Kinds = Mapping[str, DeviceKind]


def plan(
    claim: Claim, allotments: Sequence[Allotment], kinds: Kinds, others: Sequence[Record]
) -> Plan:
    """Plan a prepare of a claim with these devices. Raises ClaimError, NotReadyError, HostError."""
    used = [allotment for allotment in allotments if not allotment.result.admin_access]
    plans = [_plan_kind(kind, used) for kind in kinds.values()]
    effects = [effect for kind_plan in plans for effect in kind_plan.effects]
    return Plan(
        holds=tuple(sorted({hold for allotment in used for hold in allotment.device.holds})),
        effects=effect_rules.adopt(effects, others),
        config_key=config_choice.join_keys(_keys(claim, used, kinds)),
        restart=any(kind_plan.restart for kind_plan in plans),
    )


def allot(
    claim: Claim, catalog: Catalog, kinds: Kinds, gates: FeatureGates
) -> tuple[Allotment, ...]:
    """The claim's devices with their configs. Raises ClaimError, NotReadyError, HostError."""
    devices = [catalog.find(result.device) for result in claim.results]
    configs = {config.index: _decode(claim, config) for config in claim.configs}
    wanted = {device.name: kinds[device.kind].config for device in devices}
    chosen = config_choice.choose(
        claim,
        lambda config, result: type(configs[config.index]).__name__ == wanted[result.device],
    )
    return tuple(
        Allotment(
            device=device,
            result=result,
            config=_usable(claim, source, configs[source.index], gates) if source else None,
            where=_where(claim, source) if source else "",
        )
        for device, result, source in zip(devices, claim.results, chosen, strict=True)
    )


def prepared_devices(
    claim: Claim, catalog: Catalog, kinds: Kinds, effects: Sequence[Effect]
) -> tuple[PreparedDevice, ...]:
    """The claim's devices as its record keeps them."""
    devices: list[PreparedDevice] = []
    for result, name in zip(claim.results, _cdi_names(claim), strict=True):
        device = catalog.find(result.device)
        devices.append(
            PreparedDevice(
                request=result.main_request,
                pool=result.pool,
                device=result.device,
                cdi_ids=(f"{CDI_KIND}={name}",),
                share_id=result.share_id,
                admin_access=result.admin_access,
                kind=device.kind,
                details=kinds[device.kind].details(device, effects),
            )
        )
    return tuple(devices)


def _plan_kind(kind: DeviceKind, used: Sequence[Allotment]) -> KindPlan:
    own = [allotment for allotment in used if allotment.device.kind == kind.name]
    return kind.plan(own) if own else KindPlan()


def _decode(claim: Claim, config: OpaqueConfig) -> Config:
    decoded = api.decode_strict(config.parameters, where=_where(claim, config))
    if not isinstance(decoded, api.CONFIGS_OF_DRIVER[api.GPU_DRIVER]):
        raise InvalidConfigError(
            f"{_where(claim, config)}: {type(decoded).__name__} is not for driver {api.GPU_DRIVER}: "
            f"set driver: {api.COMPUTE_DOMAIN_DRIVER}"
        )
    return decoded


def _usable(claim: Claim, source: OpaqueConfig, config: Config, gates: FeatureGates) -> Config:
    """The config with defaults filled in, if gates and rules allow it."""
    config = api.normalize(config, gates)
    api.validate(config, gates, where=_where(claim, source))
    return config


def _where(claim: Claim, config: OpaqueConfig) -> str:
    return f"claim {claim.ref}: config {config.index} ({config.source.value})"


def _keys(claim: Claim, used: Sequence[Allotment], kinds: Kinds) -> dict[str, str]:
    """The configuration key of each device. Raises InvalidConfigError when shares of one device differ."""
    keys: dict[str, str] = {}
    for allotment in used:
        device = allotment.device
        key = kinds[device.kind].config_key(allotment.config)
        if keys.setdefault(device.name, key) != key:
            raise InvalidConfigError(
                f"claim {claim.ref}: its requests want {device.name} ({device.gpu.uuid}), of which it has several"
                f" shares, configured as {keys[device.name] or 'default'} and as {key or 'default'}; use one config"
                " for all of them"
            )
    return keys


def _cdi_names(claim: Claim) -> list[str]:
    """Upstream's ``<claim uid>-<device>``; with the share or the result's position where that is not unique."""
    devices = [result.device for result in claim.results]
    names = []
    for place, result in enumerate(claim.results):
        name = f"{claim.ref.uid}-{result.device}"
        if devices.count(result.device) > 1:
            name = f"{name}-{result.share_id or place}"
        names.append(name)
    return names
