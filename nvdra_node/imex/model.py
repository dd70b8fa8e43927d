"""Frozen values of the supervisor. Pure.

A *run* is one configuration of nvidia-imex, an *incarnation* one start of it, a *holder* a claim that needs a domain on
this node. More terms: docs/dev/glossary.md.
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
    """The problem, or the missing condition."""
    recovery: str = ""
    """Recovery actions that GPUs report (NVML), with remedies; empty: none."""
    driver_version: str = ""


class HostAddresses(msgspec.Struct, frozen=True, kw_only=True):
    """This host's address for IMEX peers (``address.choose``)."""

    chosen: str = ""
    """Empty: no usable one."""
    message: str = ""
    """Why it was chosen, or why there is none and what to do."""
    present: tuple[str, ...] = ()
    """All addresses of this host; empty: unknown."""

    def has_lost(self, address: str) -> bool:
        """Whether this host no longer has an address that nvidia-imex listens on."""
        return bool(self.present) and address != self.chosen and address not in self.present


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration of nvidia-imex."""

    domain_uid: str
    """The ComputeDomain; empty: the clique-wide daemon of isolation ``channel``."""
    clique_id: str
    slot: int
    slot_count: int
    port: int
    address: str
    """Of this node, for peers."""
    is_encrypted: bool = False


class UnitActivity(str, Enum):
    """systemd's ActiveState; ``reloading`` counts as active."""

    INACTIVE = "inactive"
    ACTIVATING = "activating"
    ACTIVE = "active"
    DEACTIVATING = "deactivating"
    FAILED = "failed"


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """Properties of the unit of nvidia-imex."""

    activity: UnitActivity = UnitActivity.INACTIVE
    invocation_id: str = ""
    """Of the current start, or of the last one."""
    result: str = "success"
    """systemd's Result: ``success``, ``exit-code``, ``signal``, ``core-dump``, ``oom-kill`` ..."""
    exit_status: int = 0
    main_pid: int = 0
    """0: unknown, or no process."""

    @property
    def is_running(self) -> bool:
        """Whether it has a process, or is being started."""
        return self.activity in (UnitActivity.ACTIVE, UnitActivity.ACTIVATING)


class Holder(msgspec.Struct, frozen=True, order=True):
    """A claim that needs a domain on this node. Sorted by arrival."""

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
    """An incarnation whose run is known."""

    run: Run
    invocation_id: str
    """Empty until it was first observed."""
    is_unsure: bool = False
    """The supervisor that started it ended meanwhile: whether it ever ran is unknown."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """State kept from one decision to the next; stored for the supervisor's next start."""

    started: Started | None = None
    """None: no daemon of ours runs, as far as is known."""
    last_run: Run | None = None
    """Run of the ended daemon, whose configuration is still on disk: used if something else starts the unit. None:
    unknown.
    """
    restarts: int = 0
    """Unplanned ends in this boot."""
    failures: int = 0
    """Unplanned ends in a row, for the backoff."""
    retry_at_s: float = 0.0
    """Monotonic; no start before it."""
    idle_since_s: float | None = None
    """Monotonic; since when the running domain has no holder."""
    ready_since_s: float | None = None
    last_exit: str = ""
    """Why the last incarnation ended, as text."""
    start_error: str = ""
    """Error of a start that systemd refused."""
    is_held: bool = False
    """It ended abruptly under claims, and the policy is to wait for their release."""
    interrupted: tuple[str, ...] = ()
    """UIDs of claims that were admitted when IMEX ended or restarted unplanned: their pods' shared memory is lost. Kept
    until the claim is released, as only its pods know whether they have started over.
    """
    interruption: str = ""
    """What happened, as text."""
    host_invocation: str = ""
    """Mode ``hostManaged``: last known incarnation of the host's unit."""
    recovers_domain: str | None = None
    """Domain whose ``persist.dat`` is kept: its next start waits for the peers it had."""


class Mode(str, Enum):
    """Who runs nvidia-imex; names are upstream's."""

    DRIVER_MANAGED = "driverManaged"
    HOST_MANAGED = "hostManaged"


class AfterAbruptEnd(str, Enum):
    """What to do when nvidia-imex died under claims. Memory that it exported may still be in use on other nodes; the
    kernel refuses new exports until the next start."""

    RESTART = "restart"
    """Start again; RECOVERY waits for the peers it had."""
    HOLD = "hold"
    """Start again after all claims of the domain were released on this node."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the decisions."""

    mode: Mode = Mode.DRIVER_MANAGED
    after_abrupt_end: AfterAbruptEnd = AfterAbruptEnd.RESTART
    linger_s: float = 30.0
    """How long a domain without holders keeps its daemon, so that its next job finds it running."""
    needs_encryption: bool = False
    backoff_s: float = 1.0
    max_backoff_s: float = 60.0
    healthy_s: float = 60.0
    """Time in READY after which earlier failures are forgotten."""


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a decision depends on."""

    now_s: float
    """Monotonic."""
    policy: Policy
    fabric: Fabric
    addresses: HostAddresses
    spec: FabricNodeSpec | None
    """None: no FabricNode yet."""
    holders: tuple[Holder, ...] = ()
    are_holders_known: bool = True
    """False: the stored state was lost, and the kubelet plugin has not reported its claims yet."""
    unit: Unit = Unit()
    imex: ImexState = ImexState.UNSET
    """nvidia-imex-ctl's answer about this incarnation; UNAVAILABLE without one."""
    imex_problem: str = ""
    """Why nvidia-imex-ctl gave no answer."""
    foreign: str = ""
    """Unit of another daemon that holds the machine's one IMEX session."""
    has_certificate: bool = False


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether claims of a domain may start on this node."""

    is_ready: bool
    reason: str = ""
    """One CamelCase word, see ``nvdra_core.api.fabric.FabricDomainStatus``."""
    message: str = ""
    """The missing condition, and the remedy where there is one."""


class ActionKind(str, Enum):
    """Kinds of actions."""

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
    """Actions, new memory, and when to decide again."""

    actions: tuple[Action, ...]
    memory: Memory
    wake_in_s: float | None = None
    """None: only on a change."""
