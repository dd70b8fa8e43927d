"""Random histories of calls, crashes, failures, reboots and sweeps over several claims: no device twice, no leftovers."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nvdra_core.errors import NvdraError
from nvdra_node.checkpoint.model import RecordState
from tests.beds.memory.claim_world import World, a_claim
from tests.fakes.host.files import Crash

DEVICES = ("gpu-0", "gpu-1", "gpu-2")
CLAIMS = [
    a_claim("a", ("gpu-0",)),
    a_claim("b", ("gpu-0",), set={"mode": "b"}),
    a_claim("c", ("gpu-1", "gpu-0"), set={"mode": "c", "clock": "1"}),
    a_claim("d", ("gpu-1",), set={"clock": "2"}, restart=True),
    a_claim("e", ("gpu-2",), admin=True),
    a_claim("f", ("gpu-2",), set={"mode": "f"}),
]
claims = st.sampled_from(CLAIMS)
steps = st.integers(min_value=1, max_value=16)


class AnyHistory(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.world = World()
        self.answered = {}
        """Claims that the kubelet has an answer for: uid -> answer."""

    @rule(claim=claims)
    def prepare(self, claim):
        try:
            self.answered[claim.ref.uid] = self.world.prepare(claim)
        except NvdraError:
            assert claim.ref.uid not in self.answered

    @rule(claim=claims)
    def unprepare(self, claim):
        self.world.unprepare(claim)
        self.answered.pop(claim.ref.uid, None)

    @rule(claim=claims, step=steps, prepares=st.booleans())
    def die(self, claim, step, prepares):
        self.world.faults.clear()
        self.world.faults.die_at = step
        if not prepares:
            self.answered.pop(claim.ref.uid, None)
        try:
            if prepares:
                self.answered[claim.ref.uid] = self.world.prepare(claim)
            else:
                self.world.unprepare(claim)
        except (Crash, NvdraError):
            pass
        self.world.restart()

    @rule(claim=claims, step=steps, prepares=st.booleans())
    def fail(self, claim, step, prepares):
        self.world.faults.clear()
        self.world.faults.fail_at = step
        if not prepares:
            self.answered.pop(claim.ref.uid, None)
        try:
            if prepares:
                self.answered[claim.ref.uid] = self.world.prepare(claim)
            else:
                self.world.unprepare(claim)
        except NvdraError:
            pass
        self.world.faults.clear()

    @rule(power_loss=st.sampled_from([None, True, False]))
    def reboot(self, power_loss):
        self.answered.clear()  # no container survives
        self.world.reboot(power_loss=power_loss)

    @rule()
    def settle(self):
        self.world.files.settle()

    @rule(claim=claims)
    def delete(self, claim):
        """The API forgets a claim that the kubelet does not use."""
        if claim.ref.uid not in self.answered:
            self.world.claims.delete(claim.ref)

    @rule()
    def sweep(self):
        for claim in CLAIMS:
            if claim.ref.uid in self.answered:
                self.world.claims.add(claim)
        self.world.sweep_all()

    @invariant()
    def no_device_is_prepared_twice(self):
        given = [
            device.device
            for uid in self.answered
            for device in self.answered[uid]
            if not device.admin_access
        ]
        assert len(given) == len(set(given))

    @invariant()
    def answered_claims_are_prepared(self):
        for uid, devices in self.answered.items():
            record = self.world.deps.records.get(uid)
            assert record is not None
            assert record.state is RecordState.COMPLETED
            assert record.devices == devices
            assert self.world.files.read(self.world.cdi_path(uid)) is not None
            for effect in record.effects:
                assert self.world.machine.settings[effect["target"]] == effect["value"]

    @invariant()
    def every_setting_belongs_to_a_record(self):
        recorded = {
            effect["target"]
            for record in self.world.deps.records.all()
            for effect in record.effects
        }
        assert set(self.world.machine.settings) <= recorded

    @invariant()
    def memory_is_what_a_restart_would_read(self):
        before = {record.uid: record for record in self.world.deps.records.all()}
        self.world.restart()
        assert {record.uid: record for record in self.world.deps.records.all()} == before

    def teardown(self):
        self.world.faults.clear()
        for claim in CLAIMS:
            self.world.unprepare(claim)
        assert self.world.machine.settings == {}
        assert [path for path in self.world.files.paths() if "quarantine" not in path.parts] == []


AnyHistory.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestAnyHistory = pytest.mark.timeout(120)(AnyHistory.TestCase)
