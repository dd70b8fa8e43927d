"""FabricNode (fabric.nvdra.io/v1alpha1): the contract of the controller and a node's IMEX supervisor. Data only.

Cluster-scoped, named after the node. The controller makes the object (owner: the Node) and is the
only writer of ``spec``; the node's supervisor is the only writer of ``status``. Metadata stays with
the Kubernetes client. Both read with ``decode_part(value, FabricNodeSpec, where=..., strict=False)``.

``cliqueID`` is upstream's joined form everywhere, ``<clusterUUID>.<cliqueId>``, and empty on a node
without NVLink fabric. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

import hashlib
from enum import Enum

import msgspec

from nvdra_core.api.meta import ApiStruct

FABRIC_GROUP = "fabric.nvdra.io"
FABRIC_VERSION = "v1alpha1"
FABRIC_API_VERSION = f"{FABRIC_GROUP}/{FABRIC_VERSION}"
FABRIC_NODE_KIND = "FabricNode"

DEFAULT_HEARTBEAT_S = 10
"""While the node takes part in a domain. Without a domain the interval is longer."""


class Isolation(str, Enum):
    """What keeps ComputeDomains apart: an IMEX domain of its own, or a channel number of its own."""

    DOMAIN = "domain"
    """The node's IMEX runs one ComputeDomain at a time, on the domain's own port; channel 0."""
    CHANNEL = "channel"
    """One IMEX per clique from boot on; each ComputeDomain has its own channel number."""


class FabricSlot(ApiStruct, frozen=True, omit_defaults=False):
    """One filled slot of a clique: line ``index`` of nodes_config, and the node that has it."""

    index: int
    """IMEX node ID, from 0."""
    node_name: str
    address: str = ""
    """Of the peer, from its own status; empty until it has reported one: then it cannot be reached
    yet, and its name must not resolve.
    """


class FormerSlot(ApiStruct, frozen=True, omit_defaults=False):
    """A slot in a clique this node has left; it is the node's again should it come back."""

    clique_id: str = msgspec.field(name="cliqueID")
    index: int


class FabricDomain(ApiStruct, frozen=True, omit_defaults=False):
    """A ComputeDomain that this node takes part in. Authoritative, unlike the claim's config."""

    uid: str
    namespace: str
    """Of the ComputeDomain: only claims of this namespace may join (the tenant boundary)."""
    name: str
    isolation: Isolation
    port: int
    """Peer port of IMEX (SERVER_PORT); with isolation ``channel`` the same for every domain."""
    channel: int
    """Minor of /dev/nvidia-caps-imex-channels/channelN; the same on every node of the domain."""
    deleting: bool = False
    """The ComputeDomain has a deletionTimestamp: prepared claims go on, new ones are refused."""
    members: tuple[int, ...] = ()
    """Slots of this clique whose nodes take part, by index: the peers of the node's IMEX. Empty
    means not known, and then every filled slot is tried. A running IMEX is notified of each change,
    which would else find a new peer after its back-off only (up to 125 s).
    """
    slot_count: int = 0
    """Lines of this domain's nodes_config, the same on all its nodes while any of them runs IMEX for
    it. 0: ``slotCount`` of the clique. So a clique whose ``slotCount`` is raised gives new domains
    the new number at once, and domains that run keep theirs.
    """


class FabricCertificate(ApiStruct, frozen=True):
    """The answer to ``status.imex.certificateRequest``; nothing here is secret."""

    certificate: str
    """PEM, for the key that the node made and never shows."""
    authorities: str
    """PEM of every CA a peer's certificate may come from: two while the CA is being rotated."""
    not_after: str


class FabricNodeSpec(ApiStruct, frozen=True):
    """``spec``, by the controller. All fields absent: nothing decided yet, the node waits."""

    clique_id: str = msgspec.field(default="", name="cliqueID")
    """The clique that ``slot`` and ``slots`` belong to. While it differs from the node's own
    status.cliqueID the slot does not apply: the controller has not processed the change yet.
    """
    slot: int | None = None
    """This node's own index; None without fabric, or while the clique is full."""
    slot_count: int = 0
    """Lines of nodes_config, filled or not. All nodes of a clique get the same number."""
    slots: tuple[FabricSlot, ...] = ()
    """Every filled slot of the clique, this node's too, by index."""
    former_slots: tuple[FormerSlot, ...] = ()
    domains: tuple[FabricDomain, ...] = ()
    """By uid. A domain stays until its last claim on this node is deleted."""
    shared_port: int = 0
    """With isolation ``channel``: the port of the clique's one IMEX, which runs from boot on, whether a
    domain is there or not. 0 with isolation ``domain``.
    """
    heartbeat_seconds: int = DEFAULT_HEARTBEAT_S
    """How often the supervisor writes status.heartbeatTime."""
    certificate: FabricCertificate | None = None
    lost_heartbeat: str = ""
    """``status.heartbeatTime`` with which the controller found the node silent. While the status still has it the
    node is lost, for a controller that starts later, too.
    """


class FabricState(str, Enum):
    """NVLink fabric of the node, all GPUs together (NVML fabric info)."""

    UNSET = ""
    """Not observed yet."""
    NOT_SUPPORTED = "NotSupported"
    """No multi-node NVLink: the node takes part without slot and without channel devices."""
    IN_PROGRESS = "InProgress"
    COMPLETED = "Completed"
    FAILED = "Failed"
    """Some GPU is not registered, or GPUs disagree on the clique; fabricMessage says which."""


class ImexState(str, Enum):
    """State of the node's IMEX: the words of ``nvidia-imex-ctl -q``, and Stopped for no process."""

    UNSET = ""
    STOPPED = "STOPPED"
    INITIALIZING = "INITIALIZING"
    STARTING_AUTH_SERVER = "STARTING_AUTH_SERVER"
    WAITING_FOR_PEERS = "WAITING_FOR_PEERS"
    WAITING_FOR_RECOVERY = "WAITING_FOR_RECOVERY"
    INIT_GPU = "INIT_GPU"
    READY = "READY"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    UNAVAILABLE = "UNAVAILABLE"


class ImexIncarnation(ApiStruct, frozen=True, omit_defaults=False):
    """Which run of IMEX a report is about. A report of another run does not apply to this one."""

    boot_id: str = msgspec.field(name="bootID")
    invocation_id: str = msgspec.field(name="invocationID")
    """Of the systemd unit."""
    config_hash: str
    slot: int
    domain_uid: str = msgspec.field(default="", name="domainUID")
    """The ComputeDomain it serves; empty with isolation ``channel``."""
    slot_count: int = 0
    """Lines of the nodes_config it was started with: peers with another number refuse each other. 0:
    an older supervisor does not report it.
    """
    version: str = ""
    """Of the daemon that runs, as it reports it; ``imexVersion`` may be of a newer package."""


class ImexStatus(ApiStruct, frozen=True):
    """The node's one IMEX."""

    state: ImexState = ImexState.UNSET
    incarnation: ImexIncarnation | None = None
    """None while no IMEX runs."""
    restarts: int = 0
    """Unplanned ones since the node booted."""
    message: str = ""
    """Why the state is what it is: the last exit, the last telling log line."""
    certificate_request: str = ""
    """PEM CSR (PKCS #10) of the node's key. The controller chooses the names and
    ignores the requested ones.
    """


class FabricClaim(ApiStruct, frozen=True, omit_defaults=False):
    """A ResourceClaim that holds a domain on this node."""

    namespace: str
    name: str
    uid: str


class PeerProblem(str, Enum):
    """Why the node's IMEX is not connected to a peer, as ``nvidia-imex-ctl -N`` reports it."""

    UNREACHABLE = "Unreachable"
    """No connection: it does not run, its address or port cannot be reached, or it refuses TLS."""
    VERSION_MISMATCH = "VersionMismatch"
    NODE_MAP_MISMATCH = "NodeMapMismatch"
    """It runs with another nodes_config (``slotCount``)."""


class FabricPeer(ApiStruct, frozen=True, omit_defaults=False):
    """A peer of the domain that the node's IMEX is not connected to."""

    slot: int
    problem: str = PeerProblem.UNREACHABLE.value
    """A ``PeerProblem``; a text, so that one of a later release does not make the report unreadable."""
    version: str = ""
    """Of the peer's IMEX, if the node's IMEX reports it."""


class FabricDomainStatus(ApiStruct, frozen=True, omit_defaults=False):
    """State of a domain on this node: one entry for each with a claim prepared or in
    preparation.
    """

    uid: str
    ready: bool = False
    """The current IMEX run serves the domain and is READY (without fabric: always)."""
    reason: str = ""
    """One CamelCase word when not ready (``WaitingForSlot``, ``OtherDomainActive``, ``ImexStarting``,
    ``ImexFailed``, ...), or ready but not well (``PeersMissing``).
    """
    message: str = ""
    claims: tuple[FabricClaim, ...] = ()
    peers_connected: int = 0
    """Members of the domain in this clique that the node's IMEX is connected to."""
    peers_known: int = 0
    """Members of the domain in this clique that the node has an address of, itself not counted."""
    peers: tuple[FabricPeer, ...] = ()
    """Of the peers that are not connected, those with the lowest slots: at most 32."""


class FabricNodeStatus(ApiStruct, frozen=True):
    """``status``, by the node's supervisor."""

    boot_id: str = msgspec.field(default="", name="bootID")
    cluster_uuid: str = msgspec.field(default="", name="clusterUUID")
    clique_id: str = msgspec.field(default="", name="cliqueID")
    addresses: tuple[str, ...] = ()
    """IP addresses that peers can reach, the preferred one first."""
    address_message: str = ""
    """Why this address was chosen, or why there is none and what to set."""
    driver_version: str = ""
    imex_version: str = ""
    channel_count: int = 0
    """ImexChannelCount of the driver: channels 0 to channelCount - 1 exist."""
    fabric_state: FabricState = FabricState.UNSET
    fabric_message: str = ""
    imex: ImexStatus = ImexStatus()
    domains: tuple[FabricDomainStatus, ...] = ()
    heartbeat_time: str = ""
    observed_generation: int = 0
    """metadata.generation of the spec that the supervisor has taken over."""


def slot_name(clique_id: str, index: int) -> str:
    """Host name of a slot: what stands in nodes_config, in the private hosts file and in the
    certificate. Also unfilled slots have one. Differs between cliques, so that a certificate of one
    is worth nothing in another.
    """
    digest = hashlib.sha256(clique_id.encode()).hexdigest()[:10]
    return f"imex-{digest}-{index:04d}"


def is_incarnation_current(spec: FabricNodeSpec, status: FabricNodeStatus) -> bool:
    """Whether the reported IMEX run is one of this boot with this slot. A node without fabric runs no
    IMEX and is always current.
    """
    if not status.clique_id:
        return status.imex.incarnation is None
    run = status.imex.incarnation
    return (
        run is not None
        and run.boot_id == status.boot_id
        and spec.slot is not None
        and run.slot == spec.slot
        and spec.clique_id == status.clique_id
    )


def domain_named(spec: FabricNodeSpec, uid: str) -> FabricDomain | None:
    """The domain with that UID in the node's spec; None if it is not there."""
    return next((domain for domain in spec.domains if domain.uid == uid), None)
