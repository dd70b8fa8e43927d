"""The contract between the shared claim and slice machinery and a DRA driver.

``transaction`` calls plan -> settle -> capture* -> apply* -> finish -> verify on prepare, verify -> edits for a
prepared claim, release -> undo* on unprepare; ``publisher``, ``health`` and metrics read the pool. ``plan``,
``release`` and ``finish`` are pure. ``apply``, ``undo`` and ``settle`` are idempotent: a crash can repeat or lose them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

import msgspec

from nvdra_core.runtime.clock import Deadline
from nvdra_node.cdi.edits import ClaimSpec
from nvdra_node.checkpoint.claim import Claim
from nvdra_node.checkpoint.model import PreparedDevice, Record

Effect = Mapping[str, Any]
"""One change of the host as JSON (``{"kind": "setTimeSlice", ...}``), as the journal stores it.

``original`` is what ``capture`` found, ``outcome`` what ``apply`` returned; effects that differ in nothing else are the
same effect. ``persistent: true``: it outlives a reboot. All others end with the boot they were applied in and are not
undone in a later one, in which the device may belong to another claim.
"""

Outcome = Mapping[str, Any]
"""Result of an applied effect (JSON), such as the UUID of a new MIG device. Often empty."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What preparing a claim will do, decided before anything is changed."""

    holds: tuple[str, ...]
    """Hardware to lock and record, sorted: ``gpu:<uuid>``, of a part also ``gpu:<uuid>/<part>`` (see ``overlap``)."""
    effects: tuple[Effect, ...] = ()
    config_key: str = ""
    """See ``config_choice.join_keys``."""
    restart: bool = False
    """True: a half-applied attempt cannot be resumed and is undone before the next (MIG)."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a prepare: the kubelet's answer and the container edits."""

    devices: tuple[PreparedDevice, ...]
    spec: ClaimSpec


class Health(str, Enum):
    """Health of a device in DRAResourceHealth (KEP-4680)."""

    UNKNOWN = "UNKNOWN"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"


class DeviceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Health of one device, with a message for the pod's status (<= 1024 characters)."""

    device: str
    health: Health
    message: str = ""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """All devices that a driver publishes on this node, in the scheduler's order of preference.

    ``devices`` are Device, ``shared_counters`` CounterSet objects of resource.k8s.io/v1 (JSON without empty members).
    """

    devices: tuple[Mapping[str, Any], ...] = ()
    shared_counters: tuple[Mapping[str, Any], ...] = ()
    health: tuple[DeviceHealth, ...] = msgspec.field(default=())


class PoolSource(Protocol):
    """The devices of a driver."""

    name: str
    """Driver name, ``gpu.nvidia.com``."""

    def pool(self) -> Pool:
        """What to publish now, from the last discovery. Cheap and never blocks."""


class Driver(PoolSource, Protocol):
    """What a driver implements. All methods are called from several threads at once."""

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` (cheap, from any thread) whenever ``pool()`` may have changed."""

    def plan(self, claim: Claim, others: Sequence[Record]) -> Plan:
        """Plan a prepare. ``others``: records of other claims that share a device with this one. Pure."""

    def release(self, record: Record, others: Sequence[Record]) -> Sequence[Effect]:
        """The record's effects that no other claim needs, in reverse order. Pure."""

    def capture(self, effect: Effect, deadline: Deadline) -> Effect:
        """The effect with the state that ``undo`` must restore as ``original``. Changes nothing.

        Called before the journal is written, so that a crash cannot lose the original state. An ``original`` from this
        boot's journal or from a claim that shares the device is kept, unless the driver knows it to be obsolete.
        """

    def apply(self, effect: Effect, deadline: Deadline) -> Outcome:
        """Apply one effect; fine if it is applied already. Raises NotReadyError, HostError."""

    def undo(self, effect: Effect, deadline: Deadline) -> None:
        """Undo one effect; fine if it is undone already. Works from ``effect`` alone; its outcome may have been lost.

        A device that does not respond must not keep a pod from ending: what cannot be undone within seconds is stored
        durably as a debt of the hold, for ``settle``.
        """

    def owed(self) -> Sequence[str]:
        """Holds with debts: effects of ended claims that are not undone yet. Raises HostError."""

    def settle(self, holds: Sequence[str], deadline: Deadline) -> None:
        """Undo the debts of these holds. Called under their locks while no claim has effects on them: before the next
        claim gets them, and periodically. Raises HostError, NotReadyError."""

    def finish(self, claim: Claim, plan: Plan, effects: Sequence[Effect]) -> Prepared:
        """The result of a prepare. ``effects``: those of the plan, with original and outcome. Pure."""

    def verify(self, record: Record, deadline: Deadline) -> None:
        """Check that everything that a completed record promises exists (device nodes, MIG, units) and is in effect.

        Raises HostError or NotReadyError; EffectLostError if only effects must be applied again, DeviceMovedError if
        a device's numbers belong to another device now. Called before each answer, also to a repeated call, and before
        a CDI file is written again.
        """

    def edits(self, record: Record) -> ClaimSpec:
        """The CDI file of a completed record for the host as it is now: device numbers may have changed with a reload
        of the NVIDIA driver. Called after ``verify``. Raises HostError, NotReadyError."""
