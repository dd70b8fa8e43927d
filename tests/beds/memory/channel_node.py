"""A node with the shipped driver in the shared transaction, on a supervisor, files and a clock in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvdra_core.runtime.clock import Deadline
from nvdra_node.cdi.store import SpecFiles
from nvdra_node.checkpoint.claim import Claim
from nvdra_node.checkpoint.store import RecordStore
from nvdra_node.computedomain.connection import SupervisorConnection, held_claims
from nvdra_node.computedomain.driver import ComputeDomainDriver
from nvdra_node.computedomain.plan import CDI_KIND
from nvdra_node.kubeletplugin.claims.dependencies import Dependencies
from nvdra_node.kubeletplugin.claims.sweep import Sweeper
from nvdra_node.kubeletplugin.claims.transaction import Transaction
from tests.fakes.clock import FakeClock
from tests.fakes.driver import FakeClaims, NoDriverFiles
from tests.fakes.host.files import FakeFiles, Faults
from tests.fakes.host.machine import FakeMachine
from tests.fakes.host.sysfs import FakeSysfs
from tests.fakes.supervisor import FakeSupervisor
from tests.unit.computedomain.examples import VIEW, joined

STATE = Path("/var/lib/nvdra/compute-domain.nvidia.com")
CDI = Path("/run/cdi")


@dataclass
class ChannelNode:
    """One process on one machine; ``restart`` starts another on the same machine."""

    faults: Faults = field(default_factory=Faults)
    boot: int = 1

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.files = FakeFiles(self.faults)
        self.supervisor = FakeSupervisor(self.faults, view=VIEW)
        self.supervisor.ready["A"] = joined()
        self.machine = FakeMachine()
        self.machine.char_majors["nvidia-caps-imex-channels"] = 237
        self.claims = FakeClaims()
        self.start()

    def start(self) -> None:
        records = RecordStore(STATE, self.files)
        records.load()
        specs = SpecFiles(CDI, CDI_KIND, self.files, NoDriverFiles(), STATE / "files")
        specs.open()
        self.connection = SupervisorConnection(self.supervisor, self.clock)
        self.connection._take(VIEW)
        self.driver = ComputeDomainDriver(
            self.connection, self.supervisor, FakeSysfs(self.machine), self.clock
        )
        self.deps = Dependencies(
            driver=self.driver, claims=self.claims, records=records, specs=specs,
            clock=self.clock, boot_id=f"boot-{self.boot}",
        )  # fmt: skip
        self.transaction = Transaction(self.deps)
        self.sweep = Sweeper(self.transaction, self.deps)

    def restart(self) -> None:
        self.faults.clear()
        self.start()
        self.sync()

    def reboot(self, power_loss: bool | None = None) -> None:
        self.faults.clear()
        self.boot += 1
        self.supervisor.held.clear()
        if power_loss is None:
            self.files.reboot()
        else:
            self.files.lose_power(keep_names=power_loss)
        self.start()
        self.sync()

    def sync(self) -> None:
        self.supervisor.sync(held_claims(self.deps.records.all(), self.deps.boot_id))

    def prepare(self, claim: Claim, timeout_s: float = 45.0) -> Any:
        return self.transaction.prepare(self.claims.add(claim), Deadline(timeout_s, self.clock))

    def unprepare(self, claim: Claim) -> None:
        self.transaction.unprepare(claim.ref, Deadline(45.0, self.clock))

    def cdi_spec(self, uid: str = "c1") -> Any:
        data = self.files.read(CDI / f"k8s.compute-domain.nvidia.com-claim_{uid}.yaml")
        return None if data is None else json.loads(data)

    def assert_clean(self) -> None:
        self.sync()
        assert self.files.paths() == () and self.supervisor.held == {}

    def assert_prepared(self, claim: Claim) -> None:
        uid = claim.ref.uid
        record = self.deps.records.get(uid)
        assert record is not None and record.state.value == "completed"
        assert record.boot_id == self.deps.boot_id
        assert self.supervisor.held == {uid: "A"}
        assert self.cdi_spec(uid)["devices"][0]["name"] == f"{uid}-channel-0"
