"""What the supervisor knows: frozen data between its deps and its decisions. Pure.

Words: a *run* is one configuration that nvidia-imex can be started with; an *incarnation* is one start of it; a
*holder* is a claim that needs a domain on this node.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from nvdra_core.api.fabric import FabricNodeSpec, FabricState, ImexState

ADDRESS_REMEDY = "set imexAddress in /etc/nvdra/config.yaml"


class Fabric(msgspec.Struct, frozen=True, kw_only=True):
    """NVLink fabric of this node, all GPUs together."""

    state: FabricState = FabricState.UNSET
    cluster_uuid: str = ""
    clique_id: str = ""
    """``<clusterUUID>.<cliqueId>`` as upstream joins them; empty unless COMPLETED."""
    message: str = ""
    """What is wrong, or what is waited for."""
    recovery: str = ""
    """What GPUs ask for before they are well again; empty: nothing."""
    driver_version: str = ""


class HostAddresses(msgspec.Struct, frozen=True, kw_only=True):
    """Where this host's IMEX peers find it (``address.choose``)."""

    chosen: str = ""
    """Empty: there is none that is fit."""
    message: str = ""
    """Why it was chosen, or why there is none and what to set."""
    present: tuple[str, ...] = ()
    """All addresses of this host; empty: not known."""

    def has_lost(self, address: str) -> bool:
        """Whether an address that nvidia-imex listens on has gone from this host."""
        return bool(self.present) and address != self.chosen and address not in self.present


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration of nvidia-imex. Two runs that are equal may follow each other without a restart."""

    domain_uid: str
    """The ComputeDomain; empty: the clique-wide daemon of isolation ``channel``."""
    clique_id: str
    slot: int
    slot_count: int
    port: int
    address: str
    """Of this node, where peers find it."""
    is_encrypted: bool = False


class UnitActivity(str, Enum):
    """systemd's ActiveState, as far as it matters."""

    INACTIVE = "inactive"
    ACTIVATING = "activating"
    ACTIVE = "active"
    DEACTIVATING = "deactivating"
    FAILED = "failed"


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """The unit of nvidia-imex as systemd sees it."""

    activity: UnitActivity = UnitActivity.INACTIVE
    invocation_id: str = ""
    """Of the present start or, when it is not running, of the last one."""
    result: str = "success"
    """systemd's Result: ``success``, ``exit-code``, ``signal``, ``core-dump``, ``oom-kill`` ..."""
    exit_status: int = 0
    main_pid: int = 0
    """Of the daemon while it runs; 0: not known."""

    @property
    def is_running(self) -> bool:
        """Whether there is a process, or there is just about to be one."""
        return self.activity in (UnitActivity.ACTIVE, UnitActivity.ACTIVATING)


class Holder(msgspec.Struct, frozen=True, order=True):
    """A claim that needs a domain on this node. Sorted by the time it came."""

    since_s: float
    """Wall clock, seconds since the epoch."""
    domain_uid: str
    namespace: str
    name: str
    uid: str
    is_admitted: bool = False
    """Its prepare call got the reply "ready": its pod may run, and the daemon must not be touched."""

    @property
    def full_name(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """An incarnation that we began, or found running and know the run of."""

    run: Run
    invocation_id: str
    """Empty until the first look at it."""
    is_unsure: bool = False
    """An earlier supervisor died while it started it: whether it ever ran is not known."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor remembers from one decision to the next."""

    started: Started | None = None
    """None: as far as we know no daemon of ours runs."""
    last_run: Run | None = None
    """Of the daemon that ended and was not started again by us: its configuration is still on disk, and counts if
    something else starts the unit. None: not known.
    """
    restarts: int = 0
    """Ends that nobody asked for, in this boot."""
    failures: int = 0
    """Such ends in a row: how long to wait before the next start."""
    retry_at_s: float = 0.0
    """Monotonic; no start before it."""
    idle_since_s: float | None = None
    """Monotonic; since when nobody holds the running domain."""
    ready_since_s: float | None = None
    last_exit: str = ""
    """Why the last incarnation ended, for people."""
    start_error: str = ""
    """What systemctl said of a start that it did not carry out."""
    is_held: bool = False
    """It ended abruptly under claims, and the policy is to wait until these are gone."""
    interrupted: tuple[str, ...] = ()
    """UIDs of the claims that were admitted when IMEX ended or was restarted, and not by us: what their pods shared is
    lost. A claim stays until it is released, as only its pods know whether they began again.
    """
    interruption: str = ""
    """How that was, for people."""
    host_invocation: str = ""
    """With mode ``hostManaged``: the incarnation of the host's unit that was seen last."""
    recovers_domain: str | None = None
    """The domain whose ``persist.dat`` is kept: the next start of it waits for the peers it had."""


class Mode(str, Enum):
    """Who runs nvidia-imex; names are upstream's."""

    DRIVER_MANAGED = "driverManaged"
    HOST_MANAGED = "hostManaged"


class AfterAbruptEnd(str, Enum):
    """What to do when nvidia-imex died under claims. Memory it had exported may still be in use elsewhere; the kernel
    refuses new exports until the next start."""

    RESTART = "restart"
    """Start again; RECOVERY waits for the peers it had."""
    HOLD = "hold"
    """Start again only when the claims of the domain are gone from this node."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the decisions. Times are seconds."""

    mode: Mode = Mode.DRIVER_MANAGED
    after_abrupt_end: AfterAbruptEnd = AfterAbruptEnd.RESTART
    linger_s: float = 30.0
    """How long a domain that nobody holds keeps its daemon, so that the next job of it finds it running."""
    needs_encryption: bool = False
    backoff_s: float = 1.0
    max_backoff_s: float = 60.0
    healthy_s: float = 60.0
    """READY for so long: earlier failures count no more."""


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a decision is made from."""

    now_s: float
    """Monotonic."""
    policy: Policy
    fabric: Fabric
    addresses: HostAddresses
    spec: FabricNodeSpec | None
    """None: the controller has not made the FabricNode yet."""
    holders: tuple[Holder, ...] = ()
    are_holders_known: bool = True
    """False: after a loss of the supervisor's own state, until the kubelet plugin has told its claims."""
    unit: Unit = Unit()
    imex: ImexState = ImexState.UNSET
    """What nvidia-imex-ctl says of the present incarnation; UNAVAILABLE when it gives no answer in time."""
    imex_problem: str = ""
    """Why there is no answer of nvidia-imex-ctl."""
    foreign: str = ""
    """Another daemon that has the machine's one IMEX session: a unit's name."""
    has_certificate: bool = False


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """How a domain is doing on this node."""

    is_ready: bool
    reason: str = ""
    """One CamelCase word, see ``nvdra_core.api.fabric.FabricDomainStatus``."""
    message: str = ""
    """What is waited for, and what to do where somebody must."""


class ActionKind(str, Enum):
    """What can be done."""

    CLEAR_RECOVERY = "clear-recovery"
    WRITE_CONFIG = "write-config"
    START = "start"
    STOP = "stop"
    WRITE_HOSTS = "write-hosts"


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One step, with its reason for the log."""

    kind: ActionKind
    why: str
    run: Run | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now, what to remember, when to look again."""

    actions: tuple[Action, ...]
    memory: Memory
    wake_in_s: float | None = None
    """None: only when something happens."""
