"""A node with the shipped supervisor on a daemon, files and a clock in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nvdra_core.api.fabric import (
    FabricCertificate,
    FabricDomain,
    FabricDomainStatus,
    FabricNodeSpec,
    FabricNodeStatus,
    FabricSlot,
    FabricState,
    Isolation,
)
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.imex.daemon.control import Dependencies
from nvdra_node.imex.daemon.render import Layout
from nvdra_node.imex.daemon.store import Store
from nvdra_node.imex.model import Fabric, Holder, HostAddresses, Policy
from nvdra_node.imex.replies import JoinReply
from nvdra_node.imex.report import status
from nvdra_node.imex.supervisor import Supervisor
from tests.fakes.clock import FakeClock
from tests.fakes.host.files import FakeFiles
from tests.fakes.imex import FakeDaemon

CLUSTER = "2b1c5d6e-0000-4000-8000-000000000007"
CLIQUE = f"{CLUSTER}.32766"
FABRIC = Fabric(state=FabricState.COMPLETED, cluster_uuid=CLUSTER, clique_id=CLIQUE)
NO_FABRIC = Fabric(state=FabricState.NOT_SUPPORTED)
LAYOUT = Layout(Path("/run/nvdra/imex"), Path("/var/lib/nvdra/imex/tls"))
CERTIFICATE_PATH = LAYOUT.tls / "cert.pem"
MACHINE = status.Machine(boot_id="boot-1", imex_version="580", channel_count=2048)
SPEC_PATH = Path("/var/lib/nvdra/imex/node.json")


def a_domain(uid: str = "A", **change: Any) -> FabricDomain:
    values: dict[str, Any] = {
        "uid": uid, "namespace": "ns", "name": f"domain-{uid.lower()}", "isolation": Isolation.DOMAIN,
        "port": 50000 + ord(uid[0]), "channel": 0,
    } | change  # fmt: skip
    return FabricDomain(**values)


def a_spec(*domains: FabricDomain, slot: int | None = 2, **change: Any) -> FabricNodeSpec:
    values: dict[str, Any] = {
        "clique_id": CLIQUE, "slot": slot, "slot_count": 18, "domains": domains,
        "slots": (
            FabricSlot(index=2, node_name="node", address="10.0.0.2"),
            FabricSlot(index=5, node_name="other", address="10.0.0.5"),
        ),
    } | change  # fmt: skip
    return FabricNodeSpec(**values)


def slots(*numbers: int) -> tuple[FabricSlot, ...]:
    """Filled slots with the addresses 10.0.0.N."""
    return tuple(FabricSlot(index=n, node_name=f"n{n}", address=f"10.0.0.{n}") for n in numbers)


def a_claim(uid: str, domain: str = "A", namespace: str = "ns", since_s: float = 0.0) -> Holder:
    return Holder(since_s, domain, namespace, f"claim-{uid}", uid)


CERTIFICATE = FabricCertificate(
    certificate="PEM", authorities="PEM", not_after="2030-01-01T00:00:00Z"
)


class ReconcilingClock(FakeClock):
    """A wait runs one reconcile pass and takes up to 0.1 s."""

    on_wait: Callable[[], object] = staticmethod(lambda: None)

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self.on_wait()
        self.advance(min(timeout_s, 0.1))
        return event.is_set()


class ImexNode:
    """One supervisor on one machine; ``restart`` starts another on the same machine."""

    def __init__(
        self, policy: Policy | None = None, address: str = "10.0.0.2", clock: Clock | None = None
    ) -> None:
        """``clock``: the supervisor's, if it is not ``self.clock``."""
        self.clock = ReconcilingClock()
        self.supervisors_clock = clock or self.clock
        self.files = FakeFiles()
        self.daemon = FakeDaemon()
        self.policy = policy or Policy()
        self.boot = 1
        self.address = address
        self.start()
        self.supervisor.set_fabric(FABRIC)

    def start(self) -> None:
        deps = Dependencies(
            unit=self.daemon, ctl=self.daemon, store=Store(self.files, LAYOUT, SPEC_PATH),
            clock=self.supervisors_clock, policy=self.policy, boot_id=f"boot-{self.boot}",
            addresses=HostAddresses(chosen=self.address),
            has_certificate=lambda: self.files.read(CERTIFICATE_PATH) is not None,
        )  # fmt: skip
        self.supervisor = Supervisor(deps)
        self.supervisor.open()
        self.claims = self.supervisor.claims
        self.clock.on_wait = self.supervisor.reconcile_once

    def restart(self) -> None:
        fabric = self.supervisor.snapshot.situation.fabric
        self.start()
        self.supervisor.set_fabric(fabric)

    def reboot(self) -> None:
        self.files.reboot()
        self.daemon.reboot()
        self.boot += 1
        self.restart()

    def assign(self, *domains: FabricDomain, **change: Any) -> None:
        self.supervisor.set_spec(a_spec(*domains, **change), 1)

    def serve(self, *uids: str) -> None:
        """Assign these domains (A without any); claim c1 is admitted to the first."""
        uids = uids or ("A",)
        self.assign(*(a_domain(uid) for uid in uids))
        assert self.join("c1", uids[0]).readiness.is_ready

    def reconcile(self, times: int = 3) -> None:
        """Run reconcile passes."""
        for _ in range(times):
            self.supervisor.reconcile_once()

    def join(self, uid: str, domain: str = "A", namespace: str = "ns") -> JoinReply:
        """Join with reconcile passes meanwhile; the last reply."""
        return self.ask(a_claim(uid, domain, namespace, since_s=self.clock.wall()))

    def ask(self, claim: Holder) -> JoinReply:
        return self.supervisor.claims.join(claim, Deadline(0.35, self.clock))

    def status(self) -> FabricNodeStatus:
        """The FabricNode's status after the last pass."""
        return status.status(self.supervisor.snapshot, MACHINE, LAYOUT)

    def domain_status(self) -> FabricDomainStatus:
        """The status of the one domain that has a claim."""
        [found] = self.status().domains
        return found

    def serves(self) -> str | None:
        run = self.supervisor.snapshot.run
        return None if run is None else run.domain_uid
