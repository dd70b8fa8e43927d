"""The driver compute-domain.nvidia.com: implements ``kubeletplugin.driver.Driver`` with the IMEX supervisor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import msgspec

from nvdra_core.errors import NotReadyError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.cdi.edits import ClaimSpec
from nvdra_node.checkpoint.claim import Claim
from nvdra_node.checkpoint.model import Record
from nvdra_node.computedomain import effects, slices
from nvdra_node.computedomain import plan as planning
from nvdra_node.computedomain.connection import SupervisorConnection
from nvdra_node.computedomain.model import CHANNEL_CLASS
from nvdra_node.computedomain.supervisor_client import SupervisorClient, remaining
from nvdra_node.host.ports import Sysfs
from nvdra_node.kubeletplugin.driver import Effect, Outcome, Plan, Pool, Prepared

_LOG = log.get(__name__)

WAIT_S = 3.0
"""Longest wait in one call: the transaction releases its locks in between, so that an unprepare can run."""
REPLY_TTL_S = 2.0
"""How long a reply of the supervisor is reused."""


class ComputeDomainDriver:
    """See kubeletplugin.driver.Driver."""

    name = "compute-domain.nvidia.com"

    def __init__(
        self,
        source: SupervisorConnection,
        supervisor: SupervisorClient,
        sysfs: Sysfs,
        clock: Clock,
        *,
        is_shared: bool = False,
    ) -> None:
        self._source = source
        self._supervisor = supervisor
        self._sysfs = sysfs
        self._clock = clock
        self._is_shared = is_shared
        self._lock = threading.Lock()
        self._ready_at_s: dict[str, float] = {}
        self._is_warm = False
        source.subscribe(self._warm_up)

    def pool(self) -> Pool:
        """See Driver."""
        return slices.build(self._source.view, is_shared=self._is_shared)

    def subscribe(self, changed: Callable[[], None]) -> None:
        """See Driver."""
        self._source.subscribe(changed)

    def plan(self, claim: Claim, others: Sequence[Record]) -> Plan:
        """See Driver."""
        return planning.plan(claim)

    def release(self, record: Record, others: Sequence[Record]) -> Sequence[Effect]:
        """See Driver. Claims share no effects."""
        return tuple(reversed(record.effects))

    def capture(self, effect: Effect, deadline: Deadline) -> Effect:
        """See Driver. There is nothing to restore."""
        return effect

    def apply(self, effect: Effect, deadline: Deadline) -> Outcome:
        """See Driver. Waits until the domain is ready on this node."""
        join = effects.decode(effect)
        found = self._supervisor.join(join, remaining(deadline, WAIT_S))
        with self._lock:
            self._ready_at_s[join.uid] = self._clock.monotonic()
        outcome: Outcome = msgspec.to_builtins(found)
        return outcome

    def undo(self, effect: Effect, deadline: Deadline) -> None:
        """See Driver. Without the supervisor a pod can still end: the next sync lacks the claim (``connection``)."""
        join = effects.decode(effect)
        with self._lock:
            self._ready_at_s.pop(join.uid, None)
        try:
            self._supervisor.leave(join.uid)
        except NotReadyError as error:
            _LOG.warning(
                "cannot release claim at the supervisor; the next sync will", error, claim=join.name
            )

    def finish(self, claim: Claim, plan: Plan, effects: Sequence[Effect]) -> Prepared:
        """See Driver. Reads the channels' current major."""
        found = planning.membership(effects[0]["outcome"])
        return planning.finish(claim, found, self._sysfs.char_major(CHANNEL_CLASS))

    def owed(self) -> Sequence[str]:
        """See Driver. The supervisor learns of deleted claims by sync."""
        return ()

    def settle(self, holds: Sequence[str], deadline: Deadline) -> None:
        """See Driver."""

    def edits(self, record: Record) -> ClaimSpec:
        """See Driver. The channels' major changes with each load of the NVIDIA driver."""
        return planning.cdi(record, self._sysfs.char_major(CHANNEL_CLASS))

    def verify(self, record: Record, deadline: Deadline) -> None:
        """See Driver. The domain is ready now, and the driver has its channels."""
        for device in record.devices:
            planning.given_channels(device, self._sysfs.char_major(CHANNEL_CLASS))
        for effect in record.effects:
            self._verify_joined(effects.decode(effect), deadline)

    def _warm_up(self) -> None:
        """Import what claims need once this node has a domain."""
        if not self._is_warm and self._source.view.domains:
            self._is_warm = True
            planning.warm_up()

    def _verify_joined(self, join: effects.JoinDomain, deadline: Deadline) -> None:
        with self._lock:
            ready_at_s = self._ready_at_s.get(join.uid, float("-inf"))
        if self._clock.monotonic() - ready_at_s > REPLY_TTL_S:
            self._supervisor.join(join, remaining(deadline, WAIT_S))
