"""ComputeDomain, ComputeDomainClique, and the opaque configs of the driver
compute-domain.nvidia.com. Data only.

The two objects are described by their parts (spec, status, daemons); metadata stays with the
Kubernetes client.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from nvdra_core.api.fabric import Isolation
from nvdra_core.api.meta import ApiStruct


class AllocationMode(str, Enum):
    """How many IMEX channels a container gets: one, or all 2048."""

    UNSET = ""
    """Not written by the user; becomes Single."""
    SINGLE = "Single"
    ALL = "All"


class ComputeDomainChannelConfig(
    ApiStruct, frozen=True, tag_field="kind", tag="ComputeDomainChannelConfig"
):
    """Of a workload's claim: which domain its channel belongs to."""

    domain_id: str = msgspec.field(default="", name="domainID")
    """UID of the ComputeDomain. A hint only: the tenant boundary is checked against the object
    itself.
    """
    allocation_mode: AllocationMode | None = None


class ComputeDomainDaemonConfig(
    ApiStruct, frozen=True, tag_field="kind", tag="ComputeDomainDaemonConfig"
):
    """Of a daemon's claim: which domain the daemon serves."""

    domain_id: str = msgspec.field(default="", name="domainID")


class ResourceClaimTemplateRef(ApiStruct, frozen=True):
    """The template that the controller makes for the workload, in the domain's namespace."""

    name: str


class ComputeDomainChannelSpec(ApiStruct, frozen=True):
    """How workloads get their channel."""

    resource_claim_template: ResourceClaimTemplateRef
    allocation_mode: AllocationMode | None = None


class ComputeDomainSpec(ApiStruct, frozen=True):
    """``spec`` of a ComputeDomain; immutable once created."""

    channel: ComputeDomainChannelSpec
    num_nodes: int = 0
    """Deprecated; at least 0. How many nodes must have joined before the domain is Ready."""


class ComputeDomainState(str, Enum):
    """Readiness of a domain or of one node in it."""

    UNSET = ""
    READY = "Ready"
    NOT_READY = "NotReady"


class ComputeDomainNode(ApiStruct, frozen=True, omit_defaults=False):
    """One node in ``status.nodes`` (key: name)."""

    name: str
    ip_address: str
    clique_id: str = msgspec.field(default="", name="cliqueID")
    """``<clusterUUID>.<cliqueId>``; empty on a node without NVLink fabric."""
    index: int = 0
    """Slot in the clique, -1 without fabric. Written also when 0, as upstream does."""
    status: ComputeDomainState = ComputeDomainState.NOT_READY


class ComputeDomainAssignment(ApiStruct, frozen=True, omit_defaults=False):
    """What the controller chose for a domain, once and for its life. Not in upstream."""

    isolation: Isolation
    port: int
    """Peer port of IMEX (SERVER_PORT)."""
    channel: int
    """The IMEX channel of every node of the domain."""


class Condition(ApiStruct, frozen=True, omit_defaults=False):
    """A condition as ``kubectl wait --for=condition=...`` reads it. Not in upstream."""

    type: str
    status: str
    """``True``, ``False`` or ``Unknown``."""
    reason: str
    message: str = ""
    last_transition_time: str = ""
    """RFC 3339; when ``status`` last changed."""
    observed_generation: int = 0


class ComputeDomainStatus(ApiStruct, frozen=True, omit_defaults=False):
    """``status`` of a ComputeDomain. ``status`` and ``nodes`` are upstream's, the rest is ours."""

    status: ComputeDomainState = ComputeDomainState.NOT_READY
    nodes: tuple[ComputeDomainNode, ...] = ()
    """By name."""
    ready_nodes: int = 0
    total_nodes: int = 0
    assignment: ComputeDomainAssignment | None = None
    conditions: tuple[Condition, ...] = ()
    observed_generation: int = 0


class CliqueDaemon(ApiStruct, frozen=True, omit_defaults=False):
    """One entry of ``daemons`` of a ComputeDomainClique (key: nodeName)."""

    node_name: str
    ip_address: str
    clique_id: str = msgspec.field(name="cliqueID")
    index: int = 0
    status: ComputeDomainState = ComputeDomainState.NOT_READY


class ComputeDomainClique(ApiStruct, frozen=True):
    """The body of a ComputeDomainClique: it has no spec and no status."""

    daemons: tuple[CliqueDaemon, ...] = ()
