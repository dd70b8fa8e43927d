"""Claim + inventory -> Plan, and -> Prepared once it is carried out. Pure. Called by ``driver``.

Refuses here, before anything is touched: unknown GPUs, configs that are wrong or for other devices, and sharing
strategies whose gate is off. A sick GPU is not refused: its taint keeps pods away that do not tolerate it, and a pod
that does, or that has admin access to all GPUs of the node, gets its device node. Only a time slice cannot be set on
it. Results with admin access watch a GPU that belongs to somebody else: they get the device and change nothing, and
they hold nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nvdra_core.errors import (
    HostError,
    InvalidConfigError,
    NotReadyError,
    UnknownDeviceError,
)
from nvdra_core.gates import FeatureGates, Gate
from nvdra_node.cdi.edits import CdiDevice, ClaimSpec
from nvdra_node.checkpoint.claim import Claim, OpaqueConfig
from nvdra_node.checkpoint.model import PreparedDevice, Record
from nvdra_node.gpu import edits, given
from nvdra_node.gpu.effects import DEFAULT_TIME_SLICE, SetTimeSlice
from nvdra_node.gpu.inventory import causes
from nvdra_node.gpu.model import Gpu, GpuState, Inventory
from nvdra_node.kubeletplugin.claims import config_choice
from nvdra_node.kubeletplugin.claims import effects as effect_rules
from nvdra_node.kubeletplugin.driver import Plan, Prepared

if TYPE_CHECKING:  # msgspec costs 3 MB: a node loads it with the first claim that has a config
    from nvdra_core.api import Config, GpuConfig

CDI_KIND = "k8s.gpu.nvidia.com/claim"


def plan(claim: Claim, inventory: Inventory, others: Sequence[Record], gates: FeatureGates) -> Plan:
    """Decide how to prepare a claim. Raises ClaimError, NotReadyError, HostError."""
    gpus = [find_gpu(inventory, result.device) for result in claim.results]
    configs = _effective_configs(claim, gates)
    used = [
        (gpu, config)
        for gpu, result, config in zip(gpus, claim.results, configs, strict=True)
        if not result.admin_access
    ]
    effects = {gpu.uuid: effect for gpu, config in used if (effect := _effect(gpu, config))}
    return Plan(
        holds=tuple(sorted({gpu.hold for gpu, _ in used})),
        effects=effect_rules.adopt(effects.values(), others),
        config_key=config_choice.join_keys(_keys(claim, used)),
    )


def finish(
    claim: Claim,
    inventory: Inventory,
    nodes: Mapping[str, edits.GpuNodes],
    driver: str,
    settings: edits.EditSettings,
) -> Prepared:
    """Say what was prepared. ``nodes``: the device nodes of the claim's GPUs, by UUID. ``driver``: its instance, from
    before its effects were applied."""
    names = _cdi_names(claim)
    devices: list[PreparedDevice] = []
    spec: list[CdiDevice] = []
    for result, name in zip(claim.results, names, strict=True):
        gpu = find_gpu(inventory, result.device)
        devices.append(
            PreparedDevice(
                request=result.main_request,
                pool=result.pool,
                device=result.device,
                cdi_ids=(f"{CDI_KIND}={name}",),
                share_id=result.share_id,
                admin_access=result.admin_access,
                kind="gpu",
                details=given.details(gpu, driver),
            )
        )
        spec.append(CdiDevice(name=name, edits=edits.full_gpu(gpu, nodes[gpu.uuid], settings)))
    return Prepared(devices=tuple(devices), spec=ClaimSpec(devices=tuple(spec)))


def find_gpu(inventory: Inventory, name: str) -> Gpu:
    """The GPU of that name, well or sick. Raises UnknownDeviceError, NotReadyError, HostError."""
    gpu = inventory.find(name)
    if gpu is None and not inventory.devices:
        raise NotReadyError(
            f"no GPU is known on this node yet, also not {name}: is the NVIDIA driver loaded?",
            retry_after_s=0.5,
        )
    if gpu is None and inventory.is_partial:
        raise NotReadyError(
            f"{name} was not read yet: GPUs of this node have not answered NVML; {causes.COLD}",
            retry_after_s=0.5,
        )
    if gpu is None:
        known = ", ".join(sorted(device.name for device in inventory.devices))
        raise UnknownDeviceError(f"device {name} is not on this node; it has {known}")
    check_mode(gpu)
    return gpu


def check_mode(gpu: Gpu) -> None:
    """Raise HostError for a GPU that cannot be given whole."""
    if gpu.mig_enabled:
        raise HostError(
            f"{gpu.name} ({gpu.uuid}) is in MIG mode and cannot be given away whole: "
            f"disable it (nvidia-smi -i {gpu.uuid} -mig 0)"
        )


def _effective_configs(claim: Claim, gates: FeatureGates) -> list[GpuConfig | None]:
    """The config of each result, None for the default. Raises InvalidConfigError."""
    if not claim.configs:
        return [None] * len(claim.results)
    from nvdra_core import api

    decoded = {config.index: _decode(claim, config) for config in claim.configs}
    chosen = config_choice.choose(
        claim, lambda config, _: isinstance(decoded[config.index], api.GpuConfig)
    )
    return [
        None if source is None else _usable(claim, source, decoded[source.index], gates)
        for source in chosen
    ]


def _decode(claim: Claim, config: OpaqueConfig) -> Config:
    from nvdra_core import api

    decoded = api.decode_strict(config.parameters, where=_where(claim, config))
    if not isinstance(decoded, api.CONFIGS_OF_DRIVER[api.GPU_DRIVER]):
        raise InvalidConfigError(
            f"{_where(claim, config)}: {type(decoded).__name__} is not for driver {api.GPU_DRIVER}: "
            f"set driver: {api.COMPUTE_DOMAIN_DRIVER}"
        )
    return decoded


def _usable(claim: Claim, source: OpaqueConfig, config: Config, gates: FeatureGates) -> GpuConfig:
    """The config with its defaults filled in, if this node and this release can carry it out."""
    from nvdra_core import api

    where = _where(claim, source)
    config = api.normalize(config, gates)
    api.validate(config, gates, where=where)
    if not isinstance(config, api.GpuConfig):
        raise TypeError(f"{where}: {type(config).__name__} was chosen for a full GPU")
    if config.sharing is not None and config.sharing.strategy is api.Strategy.MPS:
        raise InvalidConfigError(
            f"{where}: sharing strategy MPS (gate {Gate.MPS_SUPPORT.value}) is not in this release: use TimeSlicing"
        )
    return config


def _where(claim: Claim, config: OpaqueConfig) -> str:
    return f"claim {claim.ref}: config {config.index} ({config.source.value})"


def _time_slice(config: GpuConfig | None) -> int | None:
    if config is None or config.sharing is None or config.sharing.time_slicing_config is None:
        return None
    interval = config.sharing.time_slicing_config.interval
    return None if interval is None else interval.time_slice


def _effect(gpu: Gpu, config: GpuConfig | None) -> Mapping[str, Any] | None:
    """What the config changes on the GPU. Raises NotReadyError when it cannot be changed now."""
    time_slice = _time_slice(config)
    if time_slice is None:
        return None
    if gpu.state is not GpuState.OK:
        if time_slice == DEFAULT_TIME_SLICE:
            return None  # what the GPU has, unless a claim left another: then ``settle`` resets it
        raise NotReadyError(
            f"{gpu.name} ({gpu.uuid}) is {gpu.state.value}, so its time slice cannot be set:"
            f" {gpu.message or 'it cannot be read'}; reset it or reboot the node, or use interval Default"
        )
    return SetTimeSlice(uuid=gpu.uuid, time_slice=time_slice).to_json()


def _keys(claim: Claim, used: Sequence[tuple[Gpu, GpuConfig | None]]) -> dict[str, str]:
    """The configuration of each GPU. Raises InvalidConfigError when two shares of one want it differently."""
    keys: dict[str, str] = {}
    for gpu, config in used:
        key = _key(config)
        if keys.setdefault(gpu.name, key) != key:
            raise InvalidConfigError(
                f"claim {claim.ref}: its requests want {gpu.name} ({gpu.uuid}), of which it has several shares,"
                f" configured as {keys[gpu.name] or 'default'} and as {key or 'default'}; use one config for all"
                " of them"
            )
    return keys


def _key(config: GpuConfig | None) -> str:
    """Equal for configs that mean the same; empty for all that ask for no more than the default."""
    if config is None or config.sharing is None or _time_slice(config) == DEFAULT_TIME_SLICE:
        return ""
    from nvdra_core.api import canonical_key

    return canonical_key(config)


def _cdi_names(claim: Claim) -> list[str]:
    """Upstream's ``<claim uid>-<device>``; with the share or its place where that would not be unique in the claim."""
    devices = [result.device for result in claim.results]
    names = []
    for place, result in enumerate(claim.results):
        name = f"{claim.ref.uid}-{result.device}"
        if devices.count(result.device) > 1:
            name = f"{name}-{result.share_id or place}"
        names.append(name)
    return names
