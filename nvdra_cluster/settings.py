"""Settings of the controller: one frozen value, read in ``cli``. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from nvdra_core.api import Isolation
from nvdra_core.errors import ConfigError

MAX_CHANNELS = 2048
"""ImexChannelCount of a driver with default settings."""
DEFAULT_PORTS = "24000-28095"
"""Below the ephemeral ports of Linux (32768) and the NodePorts of Kubernetes (30000)."""
MAX_SLOTS = 4096
_LABEL_KEY = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
)


class ImexMode(str, Enum):
    """Who runs IMEX on the nodes; the values are upstream's."""

    DRIVER_MANAGED = "driverManaged"
    HOST_MANAGED = "hostManaged"
    """The administrator: no slots, ports and certificates are assigned; all domains share the host's IMEX."""


@dataclass(frozen=True, slots=True)
class PortRange:
    """First and last port, both included."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> PortRange:
        """Read ``24000-28095``. Raises ConfigError."""
        first, dash, last = text.partition("-")
        if not (dash and first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
            raise ConfigError(f'IMEX ports "{text}": expected FIRST-LAST such as {DEFAULT_PORTS}')
        found = cls(int(first), int(last))
        if not 1024 <= found.first <= found.last <= 65535:
            raise ConfigError(f'IMEX ports "{text}": expected 1024 <= FIRST <= LAST <= 65535')
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricSettings:
    """Settings that decisions depend on."""

    mode: ImexMode = ImexMode.DRIVER_MANAGED
    isolation: Isolation = Isolation.DOMAIN
    slot_count: int = 18
    """Slots of a clique; 18 is the compute trays of an NVL72 rack."""
    ports: PortRange = PortRange(24000, 28095)
    rack_label: str = ""
    """Label of Nodes whose value all nodes of a clique must share; empty: not checked."""
    namespace: str = "nvdra"
    """Of ComputeDomainClique objects."""

    def __post_init__(self) -> None:
        if not 1 <= self.slot_count <= MAX_SLOTS:
            raise ConfigError(
                f"slots of a clique: {self.slot_count} is out of range; use 1 to {MAX_SLOTS}"
            )
        if self.rack_label and not _LABEL_KEY.fullmatch(self.rack_label):
            raise ConfigError(
                f'rack label "{self.rack_label}": not a label key; use one that nodes cannot write, such as '
                "node-restriction.kubernetes.io/nvlink-rack"
            )
        if self.mode is ImexMode.HOST_MANAGED and self.isolation is Isolation.CHANNEL:
            raise ConfigError(
                "isolation=channel needs an IMEX that nvdra runs; use mode=driverManaged with it"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """Times of the leader election in seconds; upstream's defaults."""

    duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_period_s: float = 2.0

    def __post_init__(self) -> None:
        if not self.duration_s > self.renew_deadline_s > 2 * self.retry_period_s > 0:
            raise ConfigError(
                f"leader election: lease duration {self.duration_s:g} s must be above the renew "
                f"deadline {self.renew_deadline_s:g} s, and that above twice the retry period "
                f"{self.retry_period_s:g} s"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """All settings."""

    fabric: FabricSettings
    identity: str
    """Of this replica, in the Lease."""
    is_elected: bool = True
    """Whether replicas elect a leader; otherwise there must be exactly one."""
    lease_name: str = "nvdra-controller"
    lease_namespace: str = "nvdra"
    lease_times: LeaseTimes = LeaseTimes()
    issues_certificates: bool = True
    http_endpoint: str = ""
    """``HOST:PORT``; empty: no metrics and no health."""
    metrics_path: str = "/metrics"
