"""The process dies before each step, or each step fails once, in each stage of a claim's life; the node converges."""

from __future__ import annotations

import pytest

from tests.beds.memory.claim_world import WITH_RESTART, a_claim
from tests.beds.memory.gpu_node import a_claim as a_gpu_claim
from tests.beds.memory.gpu_objects import interval
from tests.beds.memory.gpu_world import LONG, PLAIN, GpuWorld
from tests.fakes.host.files import Crash
from tests.scenario.crash.crashes import LIVES, STAGES, every_crash, every_step, unprepare_hung


def end(world, claim):
    """The claim ends; debts of GPUs are settled."""
    world.unprepare(claim)
    assert world.settle()
    world.assert_clean()


def end_and_give_to_next(world, claim):
    """The claim ends, and another one that asks for nothing special gets its devices at once."""
    world.unprepare(claim)
    world.prepare(world.NEXT)
    world.assert_prepared(world.NEXT)
    end(world, world.NEXT)


@pytest.mark.parametrize(("stage", "claim", "step", "life"), every_crash())
class TestCrash:
    def test_prepare_after_crash_prepares(self, stage, claim, step, life):
        world, claim = stage.die(claim, step), stage.now(claim)
        life(world)
        world.prepare(claim)
        world.assert_prepared(claim)
        end(world, claim)

    def test_unprepare_after_crash_leaves_nothing(self, stage, claim, step, life):
        world = stage.die(claim, step)
        life(world)
        end_and_give_to_next(world, stage.now(claim))

    def test_sweep_after_crash_leaves_nothing(self, stage, claim, step, life):
        world = stage.die(claim, step)
        life(world)
        world.claims.delete(claim.ref)
        world.sweep_all()
        world.assert_clean()


@pytest.mark.parametrize(("stage", "claim", "step"), every_step())
class TestFailure:
    def test_prepare_after_failure_prepares(self, stage, claim, step):
        world, claim = stage.fail(claim, step), stage.now(claim)
        world.prepare(claim)
        world.assert_prepared(claim)
        end(world, claim)

    def test_unprepare_after_failure_leaves_nothing(self, stage, claim, step):
        end_and_give_to_next(stage.fail(claim, step), stage.now(claim))


@pytest.mark.parametrize("life", sorted(LIVES.keys() - {"driver loaded again"}))
@pytest.mark.parametrize("step", STAGES["prepare"].steps(WITH_RESTART))
def test_claim_reallocated_after_crash_gets_new_config(step, life):
    world = STAGES["prepare"].die(WITH_RESTART, step)
    LIVES[life](world)
    claim = a_claim(devices=("gpu-5",), set={"clock": "1"})
    world.prepare(claim)
    world.assert_prepared(claim)


def test_restart_plan_undoes_half_applied_attempt():
    world = STAGES["prepare"].die(WITH_RESTART, 9)
    assert world.machine.settings
    world.restart()
    world.prepare(WITH_RESTART)
    assert [step for step in world.faults.log if "gpu-0/" in step] == [
        "undo gpu-0/clock",
        "undo gpu-0/mode",
        "apply gpu-0/mode",
        "apply gpu-0/clock",
    ]


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("step", STAGES["gpu renew"].steps(LONG))
def test_renewal_goes_on_after_crash(step, life):
    world = STAGES["gpu renew"].die(LONG, step)
    LIVES[life](world)
    record = world.deps.records.get(LONG.ref.uid)
    if record is not None and record.boot_id == world.machine.boot_id:
        world.renew()
        world.assert_prepared(LONG)
    end(world, LONG)


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize(
    "act", [lambda world: world.settle(), lambda world: world.prepare(GpuWorld.NEXT)]
)
@pytest.mark.parametrize("step", range(1, 7))
def test_crash_while_settling_converges(act, step, life):
    world = GpuWorld()
    world.prepare(LONG)
    unprepare_hung(world, LONG)
    world.heal()
    assert world.owed()
    world.faults.clear()
    world.faults.die_at = step
    try:
        act(world)
    except Crash:
        LIVES[life](world)
    world.faults.clear()
    world.prepare(world.NEXT)
    world.assert_prepared(world.NEXT)
    end(world, world.NEXT)


def test_gpu_bed_detects_wrong_state():
    """A time slice too many and one too few."""
    world = GpuWorld()
    world.prepare(LONG)
    with pytest.raises(AssertionError):
        world.assert_prepared(PLAIN)
    world.machine.gpus[0].time_slice = 0
    with pytest.raises(AssertionError):
        world.assert_prepared(LONG)
    world.machine.gpus[0].time_slice = 3
    world.unprepare(LONG)
    world.assert_clean()
    world.machine.gpus[1].time_slice = 1
    with pytest.raises(AssertionError):
        world.assert_clean()


@pytest.mark.parametrize("step", range(1, 12))
def test_sharing_claims_survive_crashes(step):
    one, two = (a_gpu_claim(u, shares=(u,), configs=[interval("Long")]) for u in ("one", "two"))
    world = GpuWorld()
    world.prepare(one)
    world.faults.clear()
    world.faults.die_at = step
    try:
        world.prepare(two)
    except Crash:
        world.restart()
    world.faults.clear()
    world.unprepare(one)
    world.prepare(two)
    assert world.machine.gpus[0].time_slice == 3
    world.unprepare(two)
    world.assert_clean()
