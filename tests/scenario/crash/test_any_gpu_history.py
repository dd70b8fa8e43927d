"""Random histories of calls, crashes, failures, hangs, reboots and driver reloads on the shipped GPU driver.

Invariants: no GPU is prepared twice, answered claims have their settings, and no claim has those of another one.
"""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nvdra_core.errors import NvdraError
from nvdra_node.gpu.model import GpuState
from tests.beds.memory.gpu_node import a_claim
from tests.beds.memory.gpu_objects import interval
from tests.beds.memory.gpu_world import EXCLUSIVE, GpuWorld, slices
from tests.fakes.host.files import Crash

LONG = interval("Long")
CLAIMS = {
    claim.ref.uid: claim
    for claim in (
        a_claim("a"),
        a_claim("b", configs=[LONG]),
        a_claim("c", devices=("gpu-1", "gpu-0"), configs=[(["r0"], LONG)]),
        a_claim("d", devices=("gpu-1",), configs=[interval("Default")]),
        a_claim("e", devices=("gpu-0", "gpu-1"), admin=True, configs=[LONG]),
        a_claim("s1", shares=("s1",), configs=[LONG]),
        a_claim("s2", shares=("s2",), configs=[LONG]),
        a_claim("s3", shares=("s3",)),
    )
}
claims = st.sampled_from(sorted(CLAIMS))
sliced = st.sampled_from(["b", "c", "s1", "s2"])
gpus = st.integers(min_value=0, max_value=1)
steps = st.integers(min_value=1, max_value=20)


class AnyGpuHistory(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.world = GpuWorld()
        self.answered = {}
        """Claims that the kubelet has an answer for: uid -> answer."""
        self.stale = set()
        """Of these, those whose time slice was lost with the driver and is not set again yet."""
        self.sick = set()
        """Claims that got a GPU known to be unhealthy: it may still have a debt."""

    def ask_to_prepare(self, uid):
        # The kubelet repeats calls that failed.
        answer = self.world.prepare(CLAIMS[uid])
        self.answered[uid] = answer
        self.stale.discard(uid)
        known = {gpu.name: gpu.state for gpu in self.world.rescanner.inventory.gpus}
        if any(known.get(device.device) is not GpuState.OK for device in answer):
            self.sick.add(uid)

    def act(self, uid, prepares):
        if prepares:
            self.ask_to_prepare(uid)
        else:
            self.answered.pop(uid, None)
            self.world.unprepare(CLAIMS[uid])

    @rule(uid=claims)
    def prepare(self, uid):
        with contextlib.suppress(NvdraError):
            self.act(uid, True)

    @rule(uid=sliced)
    def prepare_with_slice(self, uid):
        with contextlib.suppress(NvdraError):
            self.act(uid, True)

    @rule(uid=claims)
    def unprepare(self, uid):
        self.act(uid, False)

    @rule(uid=sliced, rescans=st.booleans(), follower=claims)
    def unprepare_while_the_gpu_hangs(self, uid, rescans, follower):
        self.hang(0, rescans)
        self.act(uid, False)
        self.heal(0)
        self.prepare(follower)

    @rule(uid=claims, step=steps, prepares=st.booleans())
    def die(self, uid, step, prepares):
        self.world.faults.clear()
        self.world.faults.die_at = step
        with contextlib.suppress(Crash, NvdraError):
            self.act(uid, prepares)
        self.world.restart()
        self.renew()

    @rule(uid=claims, step=steps, prepares=st.booleans())
    def fail(self, uid, step, prepares):
        self.world.faults.clear()
        self.world.faults.fail_at = step
        with contextlib.suppress(NvdraError):
            self.act(uid, prepares)
        self.world.faults.clear()

    @rule(gpu=gpus, rescans=st.booleans())
    def hang(self, gpu, rescans):
        self.world.machine.hang(gpu)
        if rescans:
            self.world.rescan()

    @rule(gpu=gpus)
    def heal(self, gpu):
        self.world.machine.heal(gpu)
        self.world.rescanner.reload()
        self.world.rescanner.rescan_if_due()
        self.renew()  # as the service does on a change of the GPUs

    @rule()
    def load_driver(self):
        self.world.machine.reload_driver()
        self.world.set_exclusive()
        self.stale |= self.answered.keys()
        self.world.rescanner.rescan_if_due()
        self.renew()

    @rule()
    def renew(self):
        for uid in sorted(self.answered):
            record = self.world.deps.records.get(uid)
            assert record is not None
            with contextlib.suppress(NvdraError):
                self.world.transaction.renew_file(record, self.world.deadline(10))
                self.stale.discard(uid)

    @rule(power_loss=st.sampled_from([None, True, False]))
    def reboot(self, power_loss):
        self.answered.clear()  # no container survives
        for gpu in (0, 1):
            self.world.machine.heal(gpu)
        self.world.reboot(power_loss)

    @rule()
    def write_back(self):
        self.world.files.settle()

    @rule()
    def settle(self):
        self.world.settle()

    @invariant()
    def no_gpu_is_prepared_twice(self):
        given = [
            device.device
            for uid in self.answered
            for device in self.answered[uid]
            if not device.admin_access and device.share_id is None
        ]
        assert len(given) == len(set(given))

    @invariant()
    def answered_claims_are_prepared(self):
        for uid, devices in self.answered.items():
            record = self.world.deps.records.get(uid)
            assert record is not None and record.state.value == "completed"
            assert [d.device for d in record.devices] == [d.device for d in devices]
            assert self.world.cdi_spec(uid) is not None

    @invariant()
    def gpus_have_the_slices_of_their_claims(self):
        owing = {name.removesuffix(".json") for name in self.world.owed()}
        for uid in self.answered.keys() - self.stale:
            claim = CLAIMS[uid]
            if claim.results[0].admin_access:
                continue
            for device, wanted in slices(claim).items():
                gpu = next(g for g in self.world.machine.gpus if f"gpu-{g.minor}" == device)
                if uid in self.sick and gpu.uuid in owing:
                    continue
                assert gpu.time_slice == wanted, f"{device} of claim {uid}"

    @invariant()
    def every_slice_belongs_to_a_record_or_is_owed(self):
        known = {
            effect["uuid"]
            for record in self.world.deps.records.all()
            for effect in record.effects
            if record.boot_id == self.world.machine.boot_id
        }
        known |= {name.removesuffix(".json") for name in self.world.owed()}
        assert {gpu.uuid for gpu in self.world.machine.gpus if gpu.time_slice} <= known

    def teardown(self):
        self.world.faults.clear()
        for gpu in (0, 1):
            self.heal(gpu)
        for claim in CLAIMS.values():
            self.world.unprepare(claim)
        assert self.world.settle()
        assert self.world.deps.records.all() == () and self.world.owed() == ()
        assert self.world.files.names(self.world.cdi) == ()
        assert self.world.modes() == [(0, EXCLUSIVE), (0, 0)]


AnyGpuHistory.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestAnyGpuHistory = pytest.mark.timeout(120)(AnyGpuHistory.TestCase)
