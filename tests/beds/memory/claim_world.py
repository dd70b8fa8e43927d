"""One simulated node: files, machine, API, and a process that can die and start again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from nvdra_core.runtime.clock import Deadline
from nvdra_node.cdi.store import SpecFiles
from nvdra_node.checkpoint.claim import (
    AllocationResult,
    Claim,
    ClaimRef,
    ClaimUID,
    ConfigSource,
    OpaqueConfig,
)
from nvdra_node.checkpoint.store import RecordStore
from nvdra_node.kubeletplugin.claims.dependencies import Dependencies
from nvdra_node.kubeletplugin.claims.sweep import Sweeper
from nvdra_node.kubeletplugin.claims.transaction import Transaction
from tests.fakes.clock import FakeClock
from tests.fakes.driver import (
    KIND,
    FakeClaims,
    FakeDriver,
    FakeMachine,
    NoDriverFiles,
    content_of,
)
from tests.fakes.host.files import FakeFiles, Faults

STATE = Path("/var/lib/nvdra/gpu")
CDI = Path("/run/cdi")


def a_claim(uid="c1", devices=("gpu-0",), name=None, admin=False, **parameters):
    config = OpaqueConfig(source=ConfigSource.CLAIM, requests=(), parameters=parameters, index=0)
    return Claim(
        ref=ClaimRef("ns", name or f"claim-{uid}", ClaimUID(uid)),
        results=tuple(
            AllocationResult(request=f"r{i}/s", pool="node", device=d, admin_access=admin)
            for i, d in enumerate(devices)
        ),
        configs=(config,) if parameters else (),
    )


PLAIN = a_claim()
WITH_EFFECTS = a_claim(set={"mode": "fast", "clock": "3"})
WITH_FILES = a_claim(set={"mode": "fast"}, files=["r0.json", "r1.json"])
WITH_RESTART = a_claim(set={"mode": "fast", "clock": "3"}, restart=True)
CLAIMS = {
    "plain": PLAIN,
    "effects": WITH_EFFECTS,
    "restart": WITH_RESTART,
    "files": WITH_FILES,
}
NEXT = a_claim("next")


@dataclass
class World:
    faults: Faults = field(default_factory=Faults)
    boot: int = 1
    NEXT: ClassVar[Claim] = NEXT
    """A plain claim of the same device."""
    clock: Any = field(default_factory=FakeClock)

    def __post_init__(self):
        self.files = FakeFiles(self.faults)
        self.machine = FakeMachine(self.faults)
        self.claims = FakeClaims()
        self.start()

    def start(self):
        """Start the process: all that was in memory is new."""
        records = RecordStore(STATE, self.files)
        records.load()
        specs = SpecFiles(CDI, KIND, self.files, NoDriverFiles(), STATE / "files")
        specs.open()
        self.deps = Dependencies(
            driver=FakeDriver(self.machine),
            claims=self.claims,
            records=records,
            specs=specs,
            clock=self.clock,
            boot_id=f"boot-{self.boot}",
        )
        self.transaction = Transaction(self.deps)
        self.sweep = Sweeper(self.transaction, self.deps)

    def restart(self):
        self.faults.clear()
        self.start()

    def reboot(self, power_loss=None):
        """``power_loss``: None orderly, else whether names survived."""
        self.faults.clear()
        self.boot += 1
        self.machine.reboot()
        if power_loss is None:
            self.files.reboot()
        else:
            self.files.lose_power(keep_names=power_loss)
        self.start()

    def prepare(self, claim, timeout_s=45.0):
        return self.transaction.prepare(self.claims.add(claim), Deadline(timeout_s, self.clock))

    def unprepare(self, claim, timeout_s=45.0):
        self.transaction.unprepare(claim.ref, Deadline(timeout_s, self.clock))

    def settle(self):
        return self.transaction.settle(5.0)

    def heal(self):
        """Its devices never hang."""

    def sweep_all(self):
        """Sweep as often as it takes for grace times to pass."""
        for _ in range(3):
            self.clock.advance(self.sweep.run_once())

    def record_path(self, uid="c1"):
        return STATE / "claims" / f"{uid}.json"

    def cdi_path(self, uid="c1"):
        return CDI / f"{KIND.replace('/', '-')}_{uid}.yaml"

    def assert_clean(self):
        assert self.files.paths() == ()
        assert self.deps.records.all() == ()
        assert self.machine.settings == {}

    def assert_prepared(self, claim):
        """All that a prepared claim promises is there, and nothing else of it."""
        uid = claim.ref.uid
        record = self.deps.records.get(uid)
        assert record is not None and record.state.value == "completed"
        assert record.boot_id == self.deps.boot_id
        self.deps.driver.verify(record, Deadline(1, self.clock))
        assert self.files.read(self.record_path(uid)) is not None
        spec = self.files.read(self.cdi_path(uid)) or b""
        assert f"{uid}-{claim.results[0].device}".encode() in spec
        names = [name for c in claim.configs for name in c.parameters.get("files", ())]
        assert [self.files.read(STATE / "files" / f"{uid}_{name}") for name in names] == [
            content_of(name).encode() for name in names
        ]
        wanted = {
            f"{r.device}/{key}": value
            for r in claim.results
            for c in claim.configs
            for key, value in c.parameters["set"].items()
        }
        assert self.machine.settings == wanted
