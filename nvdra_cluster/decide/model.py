"""The controller's views of API objects: small frozen values, without fields that no decision uses.

``control.state.decode`` makes them from JSON, ``control.state.cache`` keeps them. Also the names that upstream fixed
(labels, finalizers).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nvdra_core.api import (
    CliqueDaemon,
    ComputeDomainAssignment,
    ComputeDomainSpec,
    ComputeDomainStatus,
    FabricNodeSpec,
    FabricNodeStatus,
)

DOMAIN_LABEL = "resource.nvidia.com/computeDomain"
"""On templates, claims made from them, and cliques; the value is the domain's UID."""
CLIQUE_LABEL = "resource.nvidia.com/computeDomain.cliqueID"
TARGET_LABEL = "resource.nvidia.com/computeDomainTarget"
FINALIZER = "resource.nvidia.com/computeDomain"
"""On ComputeDomains and on their templates; upstream's, so that either controller can take over."""
REMOVE_ANNOTATION = "fabric.nvdra.io/remove"
"""On a template of ours whose finalizer was removed for its deletion."""
FORCE_ANNOTATION = "fabric.nvdra.io/force-delete"
"""``"true"`` on a ComputeDomain: delete it even though claims hold it."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A Kubernetes Node."""

    name: str
    uid: str
    is_out_of_service: bool = False
    """Has the out-of-service taint: an administrator confirms that the machine is off."""
    rack: str = ""
    """The value of the rack label, where the settings name one."""


@dataclass(frozen=True, slots=True)
class FabricView:
    """A FabricNode."""

    name: str
    uid: str
    version: int
    """resourceVersion: orders two views of an object."""
    spec: FabricNodeSpec = field(default_factory=FabricNodeSpec)
    status: FabricNodeStatus = field(default_factory=FabricNodeStatus)
    created: str = ""
    owner_uid: str = ""
    """UID of the owner Node; empty without owner reference."""


@dataclass(frozen=True, slots=True)
class DomainView:
    """A ComputeDomain."""

    uid: str
    namespace: str
    name: str
    version: int = 0
    generation: int = 1
    spec: ComputeDomainSpec | None = None
    problem: str = ""
    """Why ``spec`` is None: it cannot be served."""
    status: ComputeDomainStatus = field(default_factory=ComputeDomainStatus)
    finalizers: tuple[str, ...] = ()
    is_deleting: bool = False
    is_forced: bool = False
    created: str = ""

    @property
    def path(self) -> str:
        """``namespace/name``, for messages."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ConfigView:
    """The opaque config of a template for our driver."""

    domain_uid: str = ""
    allocation_mode: str = ""


@dataclass(frozen=True, slots=True)
class TemplateView:
    """A ResourceClaimTemplate with our label."""

    namespace: str
    name: str
    uid: str
    domain_uid: str
    version: int = 0
    finalizers: tuple[str, ...] = ()
    is_deleting: bool = False
    config: ConfigView = ConfigView()
    is_condemned: bool = False
    """Has REMOVE_ANNOTATION."""
    is_labelled: bool = True
    """Has the label that our watch selects."""


@dataclass(frozen=True, slots=True)
class CliqueView:
    """A ComputeDomainClique."""

    name: str
    uid: str
    domain_uid: str
    clique_id: str
    daemons: tuple[CliqueDaemon, ...] = ()
    version: int = 0


@dataclass(frozen=True, slots=True)
class ClaimView:
    """A ResourceClaim with our label."""

    namespace: str
    name: str
    uid: str
    domain_uid: str
    node: str = ""
    """Node of the allocated device; empty without allocation."""
    users: tuple[str, ...] = ()
    """Names of the pods it is reserved for."""
    version: int = field(default=0, compare=False)
    """resourceVersion: orders two views of an object."""

    @property
    def path(self) -> str:
        """``namespace/name``, for messages."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member node of a domain, with what its readiness depends on."""

    node: str
    fabric: FabricView | None
    """None: the node has no FabricNode."""
    has_node: bool = True
    """The Node object exists."""
    is_lost: bool = False
    """Its heartbeats stopped."""
    is_out_of_service: bool = False
    is_full: bool = False
    """Its clique has no slot for it."""
    is_outsider: bool = False
    """It reports a clique of another rack."""
    is_refuted: bool = False
    """No claim in the API confirms its report of the domain, which is being deleted."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Reason and message of a condition."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class DomainSnapshot:
    """Everything the decision about one domain depends on."""

    domain: DomainView
    members: tuple[MemberView, ...] = ()
    """By name."""
    reporters: tuple[MemberView, ...] = ()
    """Nodes that report the domain, confirmed or not: they block its deletion until they are refuted."""
    claims: tuple[ClaimView, ...] = ()
    templates: tuple[TemplateView, ...] = ()
    cliques: tuple[CliqueView, ...] = ()
    assignment: ComputeDomainAssignment | None = None
    """Port and channel; None: none is free, or ``number_problem`` is set."""
    number_problem: str = ""
    template_problem: Problem | None = None
    """Why the last creation of the template failed."""
