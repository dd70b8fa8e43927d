"""Feature gates: parses ``--feature-gates`` into one frozen value. Pure.

Shared by the node, the controller and the webhook, so that all accept the same sets. ``RELATIONS`` defines which gates
exclude or need each other (documents are generated from it).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

import msgspec

from nvdra_core.errors import ConfigError


class Stage(str, Enum):
    """Maturity: alpha (off by default) or beta (on by default)."""

    ALPHA = "Alpha"
    BETA = "Beta"


class Gate(str, Enum):
    """Every gate, by upstream's name (``pkg/featuregates``, and the logging ones of
    component-base).
    """

    TIME_SLICING_SETTINGS = "TimeSlicingSettings"
    MPS_SUPPORT = "MPSSupport"
    PASSTHROUGH_SUPPORT = "PassthroughSupport"
    DYNAMIC_MIG = "DynamicMIG"
    NVML_DEVICE_HEALTH_CHECK = "NVMLDeviceHealthCheck"
    DEVICE_METADATA = "DeviceMetadata"
    DRA_LIST_TYPE_ATTRIBUTES = "DRAListTypeAttributes"
    FABRIC_MANAGER_PARTITIONING = "FabricManagerPartitioning"
    CONSUMABLE_SHARES = "ConsumableShares"
    IMEX_DAEMONS_WITH_DNS_NAMES = "IMEXDaemonsWithDNSNames"
    COMPUTE_DOMAIN_CLIQUES = "ComputeDomainCliques"
    CRASH_ON_NVLINK_FABRIC_ERRORS = "CrashOnNVLinkFabricErrors"
    HOST_MANAGED_IMEX_DAEMON = "HostManagedIMEXDaemon"
    CONTEXTUAL_LOGGING = "ContextualLogging"
    LOGGING_ALPHA_OPTIONS = "LoggingAlphaOptions"
    LOGGING_BETA_OPTIONS = "LoggingBetaOptions"


class GateInfo(msgspec.Struct, frozen=True):
    """The default value."""

    stage: Stage
    since: str
    """Upstream release that brought it; ``k8s`` for those of Kubernetes' logging library."""

    @property
    def default(self) -> bool:
        """Beta gates are on, alpha gates are off; upstream has no exception."""
        return self.stage is Stage.BETA


KNOWN: Mapping[Gate, GateInfo] = MappingProxyType(
    {
        Gate.TIME_SLICING_SETTINGS: GateInfo(Stage.ALPHA, "0.2"),
        Gate.MPS_SUPPORT: GateInfo(Stage.ALPHA, "0.2"),
        Gate.PASSTHROUGH_SUPPORT: GateInfo(Stage.ALPHA, "0.3"),
        Gate.DYNAMIC_MIG: GateInfo(Stage.ALPHA, "0.3"),
        Gate.NVML_DEVICE_HEALTH_CHECK: GateInfo(Stage.ALPHA, "0.3"),
        Gate.DEVICE_METADATA: GateInfo(Stage.ALPHA, "0.4"),
        Gate.DRA_LIST_TYPE_ATTRIBUTES: GateInfo(Stage.ALPHA, "0.4"),
        Gate.FABRIC_MANAGER_PARTITIONING: GateInfo(Stage.ALPHA, "0.5"),
        Gate.CONSUMABLE_SHARES: GateInfo(Stage.ALPHA, "0.5"),
        Gate.IMEX_DAEMONS_WITH_DNS_NAMES: GateInfo(Stage.BETA, "0.2"),
        Gate.COMPUTE_DOMAIN_CLIQUES: GateInfo(Stage.BETA, "0.3"),
        Gate.CRASH_ON_NVLINK_FABRIC_ERRORS: GateInfo(Stage.BETA, "0.3"),
        Gate.HOST_MANAGED_IMEX_DAEMON: GateInfo(Stage.ALPHA, "0.5"),
        Gate.CONTEXTUAL_LOGGING: GateInfo(Stage.BETA, "k8s"),
        Gate.LOGGING_ALPHA_OPTIONS: GateInfo(Stage.ALPHA, "k8s"),
        Gate.LOGGING_BETA_OPTIONS: GateInfo(Stage.BETA, "k8s"),
    }
)

GROUPS: Mapping[str, Stage] = MappingProxyType({"AllAlpha": Stage.ALPHA, "AllBeta": Stage.BETA})
"""Words that set every gate of a stage that is not named itself."""


class RelationKind(str, Enum):
    """How two gates stand to each other."""

    EXCLUDES = "excludes"
    NEEDS = "needs"


class Relation(msgspec.Struct, frozen=True):
    """One rule between two gates; a set of gates that breaks it does not start."""

    gate: Gate
    kind: RelationKind
    other: Gate
    why: str

    def is_broken(self, gates: FeatureGates) -> bool:
        """Whether ``gates`` break this rule."""
        if not gates.enabled(self.gate):
            return False
        return gates.enabled(self.other) is (self.kind is RelationKind.EXCLUDES)

    def __str__(self) -> str:
        gate, other = self.gate.value, self.other.value
        if self.kind is RelationKind.EXCLUDES:
            return f"{gate} and {other} exclude each other ({self.why}): set one to false"
        return f"{gate} needs {other} ({self.why}): set {other}=true or {gate}=false"


RELATIONS: tuple[Relation, ...] = (
    Relation(
        Gate.DYNAMIC_MIG,
        RelationKind.EXCLUDES,
        Gate.PASSTHROUGH_SUPPORT,
        "a GPU handed to a virtual machine cannot be partitioned",
    ),
    Relation(
        Gate.DYNAMIC_MIG,
        RelationKind.EXCLUDES,
        Gate.MPS_SUPPORT,
        "an MPS control daemon is not kept across MIG changes",
    ),
    Relation(
        Gate.PASSTHROUGH_SUPPORT,
        RelationKind.EXCLUDES,
        Gate.NVML_DEVICE_HEALTH_CHECK,
        "watching a GPU keeps it from being rebound",
    ),
    Relation(
        Gate.DEVICE_METADATA,
        RelationKind.NEEDS,
        Gate.PASSTHROUGH_SUPPORT,
        "only passthrough devices have metadata",
    ),
    Relation(
        Gate.COMPUTE_DOMAIN_CLIQUES,
        RelationKind.NEEDS,
        Gate.IMEX_DAEMONS_WITH_DNS_NAMES,
        "cliques name their members by DNS name",
    ),
)
"""Upstream's fatal conflicts, less DynamicMIG with NVMLDeviceHealthCheck, which it has given up
(its #1266).
"""

# What Go's strconv.ParseBool takes, because people paste upstream's values.
_BOOLS: Mapping[str, bool] = MappingProxyType(
    dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True)
    | dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False)
)


def parse_words(text: str) -> dict[str, bool]:
    """Read ``A=true,B=false,`` without asking what the names mean. Raises ConfigError."""
    words: dict[str, bool] = {}
    for entry in (part.strip() for part in text.split(",")):
        if not entry:
            continue
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or value not in _BOOLS:
            name = name or "NAME"
            raise ConfigError(f'feature gate "{entry}": expected {name}=true or {name}=false')
        if words.setdefault(name, _BOOLS[value]) is not _BOOLS[value]:
            raise ConfigError(f"feature gate {name}: given as true and as false; name it once")
    return words


def _defaults() -> dict[Gate, bool]:
    return {gate: info.default for gate, info in KNOWN.items()}


class FeatureGates(msgspec.Struct, frozen=True):
    """The gates of one process: a value for every gate. Equal when all values are."""

    values: Mapping[Gate, bool] = msgspec.field(
        default_factory=lambda: MappingProxyType(_defaults())
    )

    @classmethod
    def of(cls, **gates: bool) -> FeatureGates:
        """Defaults with some gates set by their names: ``FeatureGates.of(DynamicMIG=True)``."""
        return cls._from_words(gates)

    @classmethod
    def parse(cls, text: str) -> FeatureGates:
        """Read ``A=true,B=false,``; blanks and empty entries are allowed, as upstream's chart
        writes them.

        A gate named by itself beats ``AllAlpha`` and ``AllBeta``. Raises ConfigError on an unknown
        gate, a value that is no boolean, and a gate given both values. Does not check relations:
        ``validate`` does.
        """
        return cls._from_words(parse_words(text))

    @classmethod
    def _from_words(cls, words: Mapping[str, bool]) -> FeatureGates:
        values = _defaults()
        named: dict[Gate, bool] = {}
        for word, value in words.items():
            if word in GROUPS:
                values |= {
                    gate: value for gate, info in KNOWN.items() if info.stage is GROUPS[word]
                }
            elif word in _BY_NAME:
                named[_BY_NAME[word]] = value
            else:
                known = ", ".join(sorted((*_BY_NAME, *GROUPS)))
                raise ConfigError(f'feature gate "{word}": not known; known are: {known}')
        return cls(MappingProxyType(values | named))

    def enabled(self, gate: Gate) -> bool:
        """Whether ``gate`` is on."""
        return self.values[gate]

    def validate(self) -> None:
        """Refuse sets that cannot work, all broken rules at once. Raises ConfigError."""
        broken = [str(relation) for relation in RELATIONS if relation.is_broken(self)]
        if broken:
            raise ConfigError("feature gates: " + "; ".join(broken))

    def __str__(self) -> str:
        """All gates as ``--feature-gates`` takes them, sorted: for the log line at start."""
        texts = (f"{gate.value}={str(on).lower()}" for gate, on in self.values.items())
        return ",".join(sorted(texts))


_BY_NAME: Mapping[str, Gate] = MappingProxyType({gate.value: gate for gate in Gate})
