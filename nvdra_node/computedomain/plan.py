"""Claim -> Plan, and -> Prepared after its effects were applied. Pure. Called by ``driver``.

Refuses claims without a domain or with two, and configs and devices of other kinds. Whether a claim may join its domain
is decided by the supervisor: a claim's author sets no channel, port or namespace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nvdra_core.errors import HostError, InvalidConfigError, UnknownDeviceError
from nvdra_core.gates import FeatureGates
from nvdra_node.cdi.edits import CdiDevice, ClaimSpec, ContainerEdits, DeviceNode
from nvdra_node.checkpoint.claim import AllocationResult, Claim, OpaqueConfig
from nvdra_node.checkpoint.model import PreparedDevice, Record
from nvdra_node.computedomain.effects import JoinDomain
from nvdra_node.computedomain.model import (
    CHANNEL_ISOLATION,
    CHANNEL_PREFIX,
    DAEMON_PREFIX,
    Membership,
)
from nvdra_node.kubeletplugin.claims import config_choice
from nvdra_node.kubeletplugin.driver import Outcome, Plan, Prepared

if TYPE_CHECKING:
    from nvdra_core.api import ComputeDomainChannelConfig, Config

CDI_KIND = "k8s.compute-domain.nvidia.com/claim"
CHANNEL_PATH = "/dev/nvidia-caps-imex-channels/channel"
CHANNEL_MODE = 0o666
_EXAMPLE = {
    "apiVersion": "resource.nvidia.com/v1beta1",
    "kind": "ComputeDomainChannelConfig",
    "domainID": "none",
}
HOLD = "imex"
"""The node's one daemon."""


def warm_up() -> None:
    """Import what decoding a config takes (30 ms, once): called for the node's first domain, as most nodes never have
    one.
    """
    from nvdra_core import api

    api.decode_strict(_EXAMPLE, where="example")


def plan(claim: Claim) -> Plan:
    """Decide how to prepare a claim. Raises ClaimError.

    Claims that share the channel do not exclude each other, whatever their domains: the supervisor admits one domain at
    a time. The domain's isolation may be unknown here when its first claim comes, and a guess would stay in the record.
    """
    config = wanted(claim)
    return Plan(
        holds=(HOLD, f"{HOLD}/{config.domain_id}"),
        effects=(JoinDomain.of(claim.ref, config.domain_id).to_json(),),
    )


def wanted(claim: Claim) -> ComputeDomainChannelConfig:
    """The claim's one config, checked. Raises InvalidConfigError, UnknownDeviceError."""
    from nvdra_core import api

    for result in claim.results:
        _check_device(claim, result)
    decoded = {config.index: _decode(claim, config) for config in claim.configs}
    chosen = config_choice.choose(
        claim,
        lambda config, _: isinstance(decoded[config.index], api.ComputeDomainChannelConfig),
    )
    found = [decoded[source.index] for source in chosen if source is not None]
    if len(found) < len(chosen):
        raise InvalidConfigError(
            f"claim {claim.ref} has no ComputeDomainChannelConfig, so its ComputeDomain is unknown;"
            " use the ResourceClaimTemplate that its ComputeDomain names"
        )
    configs = [config for config in found if isinstance(config, api.ComputeDomainChannelConfig)]
    if len({config.domain_id for config in configs}) > 1:
        raise InvalidConfigError(
            f"claim {claim.ref} is for several ComputeDomains; use one claim for each"
        )
    return configs[0]


def _check_device(claim: Claim, result: AllocationResult) -> None:
    if result.device.startswith(DAEMON_PREFIX):
        raise UnknownDeviceError(
            f"claim {claim.ref}: {result.device} is for pods that run nvidia-imex, and on this node systemd runs it:"
            " delete the DaemonSets of the other ComputeDomain driver"
        )
    if not result.device.startswith(CHANNEL_PREFIX):
        raise UnknownDeviceError(f"claim {claim.ref}: this node has no device {result.device}")


def _decode(claim: Claim, config: OpaqueConfig) -> Config:
    from nvdra_core import api

    where = f"claim {claim.ref}: config {config.index} ({config.source.value})"
    decoded = api.decode_strict(config.parameters, where=where)
    if not isinstance(decoded, api.CONFIGS_OF_DRIVER[api.COMPUTE_DOMAIN_DRIVER]):
        raise InvalidConfigError(
            f"{where}: {type(decoded).__name__} is not for driver {api.COMPUTE_DOMAIN_DRIVER}: set driver:"
            f" {api.GPU_DRIVER}"
        )
    if isinstance(decoded, api.ComputeDomainDaemonConfig):
        raise InvalidConfigError(
            f"{where}: ComputeDomainDaemonConfig is for pods that run nvidia-imex, and on this node systemd runs it"
        )
    gates = FeatureGates.parse("")
    decoded = api.normalize(decoded, gates)
    api.validate(decoded, gates, where=where)
    return decoded


def membership(outcome: Outcome) -> Membership:
    """The outcome of joining."""
    return Membership(**outcome)


def channels(claim: Claim, found: Membership) -> range:
    """The channels that the claim's containers get. Raises InvalidConfigError, HostError."""
    from nvdra_core import api

    if not found.has_fabric:
        return range(0)
    if found.channel >= found.channel_count:
        raise HostError(
            f"ComputeDomain {found.domain_uid} has channel {found.channel}, and this node's driver has"
            f" {found.channel_count}: load it with NVreg_ImexChannelCount as on the other nodes"
        )
    if wanted(claim).allocation_mode is not api.AllocationMode.ALL:
        return range(found.channel, found.channel + 1)
    if found.isolation == CHANNEL_ISOLATION:
        raise InvalidConfigError(
            f"claim {claim.ref}: allocationMode All would give it the channels of other ComputeDomains, which isolation"
            " channel keeps apart: use Single"
        )
    return range(found.channel_count)


def finish(claim: Claim, found: Membership, major: int | None) -> Prepared:
    """What was prepared. ``major``: of the channels; None: the driver has none."""
    given = channels(claim, found)
    _check_major(given, major)
    details: Mapping[str, Any] = {
        "domain": found.domain_uid,
        "first": given.start,
        "count": len(given),
        "major": major if given else None,
    }
    devices: list[PreparedDevice] = []
    spec: list[CdiDevice] = []
    for place, result in enumerate(claim.results):
        name = f"{claim.ref.uid}-{result.device}" + (f"-{place}" if place else "")
        devices.append(
            PreparedDevice(
                request=result.main_request,
                pool=result.pool,
                device=result.device,
                # As upstream: a node without fabric gives nothing into the container.
                cdi_ids=(f"{CDI_KIND}={name}",) if given else (),
                share_id=result.share_id,
                admin_access=result.admin_access,
                kind="channel",
                details=details,
            )
        )
        spec.append(CdiDevice(name=name, edits=_edits(given, major)))
    return Prepared(devices=tuple(devices), spec=ClaimSpec(devices=tuple(spec)))


def given_channels(device: PreparedDevice, major: int | None) -> range:
    """The channels in a claim's record. Raises HostError when the record or the driver has none."""
    first, count = device.details.get("first"), device.details.get("count")
    if type(first) is not int or type(count) is not int:
        raise HostError(
            f"the record of {device.device} has no channel numbers: {dict(device.details)}; delete the pod"
            " so that it is prepared again"
        )
    channels = range(first, first + count)
    _check_major(channels, major)
    return channels


def cdi(record: Record, major: int | None) -> ClaimSpec:
    """The devices of a prepared claim's CDI file with the channels' current major. Raises HostError."""
    names = [device.name for device in record.cdi.devices] if record.cdi else []
    devices = [
        CdiDevice(name=name, edits=_edits(given_channels(device, major), major))
        for name, device in zip(names, record.devices, strict=True)
    ]
    return ClaimSpec(devices=tuple(devices))


def _check_major(given: range, major: int | None) -> None:
    if given and major is None:
        raise HostError(
            "the NVIDIA driver has no IMEX channels: load it with NVreg_ImexChannelCount above 0"
        )


def _edits(given: range, major: int | None) -> ContainerEdits:
    """Device nodes that the container runtime makes from their numbers; the host needs none."""
    if not given:
        # A CDI device must edit something; this one is given to no container.
        return ContainerEdits(env=("NVIDIA_IMEX_CHANNELS=",))
    nodes = [
        DeviceNode(
            path=f"{CHANNEL_PATH}{n}",
            major=major,
            minor=n,
            file_mode=CHANNEL_MODE,
            permissions="rw",
        )
        for n in given
    ]
    return ContainerEdits(device_nodes=tuple(nodes))
