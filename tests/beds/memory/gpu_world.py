"""The shipped GPU driver on a machine in memory that dies, fails, reboots and loads its driver again."""

from __future__ import annotations

from nvdra_node.checkpoint.claim import Claim
from nvdra_node.kubeletplugin.claims.sweep import Sweeper
from tests.beds.memory.gpu_node import GpuNode, a_claim
from tests.beds.memory.gpu_objects import interval
from tests.fakes.clock import FakeClock
from tests.fakes.host.files import FakeFiles

EXCLUSIVE = 3
"""The compute mode that the administrator set on GPU 0: time slices need another one."""

PLAIN = a_claim()
LONG = a_claim(configs=[interval("Long")])
MIXED = a_claim(devices=("gpu-0", "gpu-1"), configs=[(["r0"], interval("Long"))])
CLAIMS = {"plain": PLAIN, "long": LONG, "mixed": MIXED}
NEXT = a_claim("next", devices=("gpu-0", "gpu-1"))


def slices(claim: Claim) -> dict[str, int]:
    """The time slices that a claim wants, by device: Long for its first one, or none."""
    first = claim.results[0].device
    is_long = any(config.parameters == interval("Long") for config in claim.configs)
    return {r.device: 3 if is_long and r.device == first else 0 for r in claim.results}


class GpuWorld(GpuNode):
    """A node with two GPUs whose process dies; has the methods of ``claim_world.World``."""

    files: FakeFiles
    clock: FakeClock
    NEXT = NEXT
    """A plain claim of all GPUs."""

    def __init__(self) -> None:
        super().__init__(gpus=2)
        self.set_exclusive()
        # What all claims share is listed once: the steps that are counted are those of claims.
        self.common.warm_up()
        self.files.settle()
        self.faults.clear()

    def heal(self) -> None:
        self.machine.heal(0)

    def set_exclusive(self) -> None:
        """As an administrator does after each start of the driver."""
        self.machine.gpus[0].compute_mode = EXCLUSIVE

    def settle(self) -> bool:
        return self.transaction.settle(5.0)

    def renew(self) -> None:
        for record in self.deps.records.all():
            self.transaction.renew_file(record, self.deadline(10.0))

    def restart(self, scan: bool = True) -> None:
        self.faults.clear()
        super().restart(scan)

    def reload_driver(self) -> None:
        """The process dies, and the driver is loaded again before the next one starts."""
        self.faults.clear()
        self.machine.reload_driver()
        self.set_exclusive()
        super().restart()

    def reboot(self, power_loss: bool | None = None) -> None:
        """``power_loss``: None orderly, else whether names survived."""
        self.faults.clear()
        self.machine.reboot()
        self.set_exclusive()
        if power_loss is None:
            self.files.reboot()
        else:
            self.files.lose_power(keep_names=power_loss)
        super().restart()

    def sweep_all(self) -> None:
        """Sweep as often as it takes for grace times to pass."""
        sweep = Sweeper(self.transaction, self.deps)
        for _ in range(8):  # each minute while there are debts
            self.clock.advance(sweep.run_once())

    def owed(self) -> tuple[str, ...]:
        return self.files.names(self.state / "owed")

    def modes(self) -> list[tuple[int, int]]:
        """Time slice and compute mode of each GPU."""
        return [(gpu.time_slice, gpu.compute_mode) for gpu in self.machine.gpus]

    def assert_clean(self) -> None:
        """Nothing is left of any claim, neither in files nor on GPUs."""
        assert self.deps.records.all() == ()
        assert self.files.names(self.state / "claims") == ()
        assert self.files.names(self.cdi) == ()
        assert self.owed() == ()
        assert self.modes() == [(0, EXCLUSIVE), (0, 0)]

    def assert_prepared(self, claim: Claim) -> None:
        """All that a prepared claim promises is there and in effect."""
        record = self.deps.records.get(claim.ref.uid)
        assert record is not None and record.state.value == "completed"
        assert record.boot_id == self.machine.boot_id
        self.deps.driver.verify(record, self.deadline(1))
        spec = self.cdi_spec(claim.ref.uid)
        assert len(spec["devices"]) == len(claim.results)
        wanted = slices(claim)
        for gpu in self.machine.gpus:
            time_slice = wanted.get(f"gpu-{gpu.minor}", 0)
            assert gpu.time_slice == time_slice
            assert not time_slice or gpu.compute_mode == 0
