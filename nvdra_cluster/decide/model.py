"""What the controller knows of each object: small frozen views, without what no decision looks at.

``control.state.decode`` makes them from JSON, ``control.state.cache`` keeps them, everything in this package reads
them. Also the names that upstream fixed (labels, finalizers).
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
"""On a template whose finalizer we took away and that we were about to delete."""
FORCE_ANNOTATION = "fabric.nvdra.io/force-delete"
"""``"true"`` on a ComputeDomain: delete it although claims hold it."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A Kubernetes Node."""

    name: str
    uid: str
    is_out_of_service: bool = False
    """Has the taint by which an administrator vouches that the machine is off."""
    rack: str = ""
    """The value of the rack label, where the settings name one."""


@dataclass(frozen=True, slots=True)
class FabricView:
    """A FabricNode."""

    name: str
    uid: str
    version: int
    """resourceVersion: says which of two views is the newer one."""
    spec: FabricNodeSpec = field(default_factory=FabricNodeSpec)
    status: FabricNodeStatus = field(default_factory=FabricNodeStatus)
    created: str = ""
    owner_uid: str = ""
    """Of the Node that it belongs to; empty when nobody said."""


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
    """The opaque config of a template, as far as it is ours."""

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
    """Has our label; without, no watch of ours sees it."""


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
    """Where a device of ours is allocated; empty without allocation."""
    users: tuple[str, ...] = ()
    """Names of the pods it is reserved for."""
    version: int = field(default=0, compare=False)
    """resourceVersion: says which of two views is the newer one, and nothing else."""

    @property
    def path(self) -> str:
        """``namespace/name``, for messages."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class MemberView:
    """A node that takes part in a domain, with all that its readiness depends on."""

    node: str
    fabric: FabricView | None
    """None: the node has no FabricNode (any more)."""
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
    """Why something was not done, as a condition says it."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class DomainSnapshot:
    """All that the decisions about one domain depend on."""

    domain: DomainView
    members: tuple[MemberView, ...] = ()
    """By name."""
    reporters: tuple[MemberView, ...] = ()
    """Nodes that report that they hold the domain, also those that nothing confirms yet: they may
    block its deletion, until they are refuted, and nothing else.
    """
    claims: tuple[ClaimView, ...] = ()
    templates: tuple[TemplateView, ...] = ()
    cliques: tuple[CliqueView, ...] = ()
    assignment: ComputeDomainAssignment | None = None
    """Port and channel; None: there were none left, or ``number_problem`` says why."""
    number_problem: str = ""
    template_problem: Problem | None = None
    """Why the template could not be made at the last try."""
