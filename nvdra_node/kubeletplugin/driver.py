"""The whole contract between the shared machinery and a DRA driver.

``transaction`` calls plan -> settle -> capture* -> apply* -> finish -> verify on prepare, verify -> edits for a claim
that is prepared, and release -> undo* on unprepare; ``publisher`` asks for the pool; ``service`` reads health.
``plan``, ``release`` and ``finish`` are pure: they decide, and touch nothing. ``apply``, ``undo`` and ``settle`` are
idempotent: a crash can repeat or lose any of them.
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
"""One step as JSON (``{"kind": "setTimeSlice", ...}``): what the journal stores and ``apply``/``undo`` get.

The member ``original`` is what ``capture`` found; two effects that differ in nothing else are the same effect.
``persistent: true`` says that it outlives a reboot; all others are gone with the boot they were applied in, and are
never undone in a later one, where somebody else may have the device.
"""

Outcome = Mapping[str, Any]
"""What an applied effect told (JSON): the UUID of a new MIG device, say. Empty for most."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What preparing a claim will do, decided before anything is touched."""

    holds: tuple[str, ...]
    """Physical things to lock and to record (``gpu:<uuid>``), sorted."""
    effects: tuple[Effect, ...] = ()
    config_key: str = ""
    """See ``configkeys``."""
    restart: bool = False
    """True: a half-applied attempt cannot be resumed; undo it before applying again (MIG)."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a preparation: what the kubelet is told and what the container runtime gets."""

    devices: tuple[PreparedDevice, ...]
    spec: ClaimSpec


class Health(str, Enum):
    """Health of a device as DRAResourceHealth (KEP-4680) knows it."""

    UNKNOWN = "UNKNOWN"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"


class DeviceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Health of one published device, with a message for the pod's status (<= 1024 characters)."""

    device: str
    health: Health
    message: str = ""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """All devices a driver offers on this node, in the order of preference, as resource.k8s.io/v1 JSON.

    ``devices`` are Device objects, ``shared_counters`` CounterSet objects (both plain dicts, no empty keys).
    """

    devices: tuple[Mapping[str, Any], ...] = ()
    shared_counters: tuple[Mapping[str, Any], ...] = ()
    health: tuple[DeviceHealth, ...] = msgspec.field(default=())


class Driver(Protocol):
    """What a driver brings. All methods may be called from several threads at once."""

    name: str
    """Driver name, ``gpu.nvidia.com``."""

    def pool(self) -> Pool:
        """What to publish now. Must not block: built from the last discovery."""

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` (cheap, from any thread) whenever ``pool()`` may answer something else."""

    def plan(self, claim: Claim, others: Sequence[Record]) -> Plan:
        """Decide. ``others``: the records of the other claims that share a device with this one. Pure."""

    def release(self, record: Record, others: Sequence[Record]) -> Sequence[Effect]:
        """Which of the record's effects to undo, last first: those nobody else needs. Pure."""

    def capture(self, effect: Effect, deadline: Deadline) -> Effect:
        """The effect with what ``undo`` must restore added as ``original``. Reads, changes nothing.

        Called before the journal is written, so that a crash cannot lose the original state. An effect that has an
        original already, from this boot's journal or from a claim that shares the device, keeps it, unless the driver
        knows that what was found then is no more. Drivers without such state return the effect as it is.
        """

    def apply(self, effect: Effect, deadline: Deadline) -> Outcome:
        """Bring one effect about, or find that it already is. Raises NotReadyError, HostError."""

    def undo(self, effect: Effect, deadline: Deadline) -> None:
        """Take one effect back, or find that it already is. The outcome may have been lost.

        A device that does not answer must not keep a pod from ending: what cannot be taken back within seconds is
        written down durably, as owed by the hold, and left to ``settle``.
        """

    def owed(self) -> Sequence[str]:
        """Holds that owe the undoing of an ended claim's effects. Raises HostError."""

    def settle(self, holds: Sequence[str], deadline: Deadline) -> None:
        """Undo what these holds owe, if anything. Called with their locks, while no claim has effects on them, before
        the next claim gets them and now and then. Raises HostError, NotReadyError."""

    def finish(self, claim: Claim, plan: Plan, outcomes: Sequence[Outcome]) -> Prepared:
        """Say what was prepared. Pure."""

    def verify(self, record: Record, deadline: Deadline) -> None:
        """Check that all a completed record promises exists (device nodes, MIG, units) and is in effect, else raise
        HostError or NotReadyError; EffectLostError when the devices are there and only effects are to be applied
        again, DeviceMovedError when a device's numbers are another one's now. Called before each acknowledgement, also
        of a repeated call, and before a CDI file is written again."""

    def edits(self, record: Record) -> Mapping[str, Any]:
        """The devices of a completed record's CDI file as JSON (``cdi.spec``), as they are now: what the kernel numbers
        anew with each load of a driver is looked up by what does not change. Called after ``verify``. Raises
        HostError, NotReadyError."""
