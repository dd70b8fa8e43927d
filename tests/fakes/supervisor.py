"""SupervisorClient in memory, with state and faults."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nvdra_core.errors import ClaimError, NotReadyError
from nvdra_node.computedomain.effects import JoinDomain
from nvdra_node.computedomain.model import CHANNEL_ISOLATION, Membership, NodeView
from nvdra_node.computedomain.supervisor_client import RETRY_AFTER_S, UNAVAILABLE_PAUSE_S, HeldClaim
from tests.fakes.host.files import Faults


@dataclass
class FakeSupervisor:
    """See SupervisorClient. ``ready`` and ``namespaces`` are by the UID of the domain."""

    faults: Faults = field(default_factory=Faults)
    ready: dict[str, Membership] = field(default_factory=dict)
    namespaces: dict[str, str] = field(default_factory=dict)
    view: NodeView = field(default_factory=NodeView)
    is_down: bool = False
    held: dict[str, str] = field(default_factory=dict)
    """Claim UID -> domain UID."""
    joins: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition, repr=False)

    def join(self, effect: JoinDomain, wait_s: float) -> Membership:
        """See SupervisorClient. Does not wait. Admits one domain at a time, unless isolation is ``channel``."""
        self._check(f"join {effect.uid}")
        self.joins += 1
        if self.namespaces.get(effect.domain_uid, effect.namespace) != effect.namespace:
            raise ClaimError(f"ComputeDomain {effect.domain_uid} is in another namespace")
        self.held[effect.uid] = effect.domain_uid
        found = self.ready.get(effect.domain_uid)
        if found is None:
            raise NotReadyError(
                f"ComputeDomain {effect.domain_uid} is not ready", retry_after_s=RETRY_AFTER_S
            )
        others = sorted({uid for uid in self.held.values() if uid != effect.domain_uid})
        if found.isolation != CHANNEL_ISOLATION and others:
            raise NotReadyError(
                f"ComputeDomain {effect.domain_uid} is not ready on this node: OtherDomainActive:"
                f" another ComputeDomain uses this node until the claims of {', '.join(others)} are released",
                retry_after_s=RETRY_AFTER_S,
            )
        return found

    def leave(self, claim_uid: str) -> None:
        """See SupervisorClient."""
        self._check(f"leave {claim_uid}")
        self.held.pop(claim_uid, None)

    def sync(self, held: Sequence[HeldClaim]) -> None:
        """See SupervisorClient. Replaces all claims."""
        self._check("sync")
        self.held = {each.effect.uid: each.effect.domain_uid for each in held}

    def watch(self) -> Iterator[NodeView]:
        """See SupervisorClient: the view now, and then the connection ends."""
        self._check("watch")
        yield self.view

    def close(self) -> None:
        """See SupervisorClient."""
        self.is_down = True

    def _check(self, what: str) -> None:
        code = self.faults.step(what)
        if self.is_down or code is not None:
            raise NotReadyError("the supervisor does not answer", retry_after_s=UNAVAILABLE_PAUSE_S)
