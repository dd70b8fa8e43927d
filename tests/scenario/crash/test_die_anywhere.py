"""The process dies before each single step of prepare and of unprepare; whatever comes next, the node converges."""

import pytest
from msgspec.structs import replace

from nvdra_core.errors import NvdraError
from tests.beds.memory.claim_world import (
    PLAIN,
    WITH_EFFECTS,
    WITH_FILES,
    WITH_RESTART,
    World,
    a_claim,
)
from tests.fakes.host.files import Crash

CLAIMS = {
    "plain": PLAIN,
    "effects": WITH_EFFECTS,
    "restart": WITH_RESTART,
    "files": WITH_FILES,
}
LIVES_ON = {
    "restart": lambda world: world.restart(),
    "reboot": lambda world: world.reboot(),
    "power lost, names kept": lambda world: world.reboot(power_loss=True),
    "power lost, names lost": lambda world: world.reboot(power_loss=False),
}


def count_steps(act, prepared):
    def count(claim):
        world = World()
        if prepared:
            world.prepare(claim)
        world.faults.clear()
        act(world, claim)
        return world.faults.steps

    return count


def prepare(world, claim):
    world.prepare(claim)


def unprepare(world, claim):
    world.unprepare(claim)


def moved(claim):
    """The same claim, allocated anew with another device."""
    (result,) = claim.results
    return replace(claim, results=(replace(result, device="gpu-4"),))


def prepare_moved(world, claim):
    world.prepare(moved(claim))


def every_step(act, prepared):
    count = count_steps(act, prepared)
    return [
        pytest.param(claim, step, id=f"{name}-{step}")
        for name, claim in CLAIMS.items()
        for step in range(1, count(claim) + 1)
    ]


def die(world, act, claim, step):
    world.faults.clear()
    world.faults.die_at = step
    with pytest.raises(Crash):
        act(world, claim)


@pytest.mark.parametrize("life", LIVES_ON)
@pytest.mark.parametrize(("claim", "step"), every_step(prepare, prepared=False))
class TestDyingInPrepare:
    def test_retry_prepares(self, claim, step, life):
        world = World()
        die(world, prepare, claim, step)
        LIVES_ON[life](world)
        world.prepare(claim)
        world.assert_prepared(claim)
        world.unprepare(claim)
        world.assert_clean()

    def test_unprepare_leaves_nothing(self, claim, step, life):
        world = World()
        die(world, prepare, claim, step)
        LIVES_ON[life](world)
        world.unprepare(claim)
        world.assert_clean()

    def test_sweep_of_deleted_claim_leaves_nothing(self, claim, step, life):
        world = World()
        die(world, prepare, claim, step)
        LIVES_ON[life](world)
        world.claims.delete(claim.ref)
        world.sweep_all()
        world.assert_clean()

    def test_reallocated_claim_gets_new_device(self, claim, step, life):
        world = World()
        die(world, prepare, claim, step)
        LIVES_ON[life](world)
        moved = a_claim(devices=("gpu-5",), set={"clock": "1"})
        if world.deps.records.get("c1") and life == "restart" and is_completed(world):
            world.unprepare(claim)  # the kubelet does so before a claim can move
        world.prepare(moved)
        world.assert_prepared(moved)


def is_completed(world):
    return world.deps.records.get("c1").state.value == "completed"


@pytest.mark.parametrize("life", LIVES_ON)
@pytest.mark.parametrize(("claim", "step"), every_step(unprepare, prepared=True))
class TestDyingInUnprepare:
    def test_retry_leaves_nothing(self, claim, step, life):
        world = World()
        world.prepare(claim)
        die(world, unprepare, claim, step)
        LIVES_ON[life](world)
        world.unprepare(claim)
        world.assert_clean()

    def test_prepare_again_prepares(self, claim, step, life):
        world = World()
        world.prepare(claim)
        die(world, unprepare, claim, step)
        LIVES_ON[life](world)
        world.prepare(claim)
        world.assert_prepared(claim)


@pytest.mark.parametrize("life", LIVES_ON)
@pytest.mark.parametrize(("claim", "step"), every_step(prepare_moved, prepared=True))
class TestDyingInAMove:
    def test_retry_prepares_what_is_allocated_now(self, claim, step, life):
        world = World()
        world.prepare(claim)
        die(world, prepare_moved, claim, step)
        LIVES_ON[life](world)
        world.prepare(moved(claim))
        world.assert_prepared(moved(claim))
        world.unprepare(claim)
        world.assert_clean()

    def test_unprepare_leaves_nothing(self, claim, step, life):
        world = World()
        world.prepare(claim)
        die(world, prepare_moved, claim, step)
        LIVES_ON[life](world)
        world.unprepare(claim)
        world.assert_clean()


@pytest.mark.parametrize(("claim", "step"), every_step(prepare, prepared=False))
class TestStepsThatFail:
    def test_failed_prepare_can_be_repeated(self, claim, step):
        world = World()
        world.faults.fail_at = step
        with pytest.raises(NvdraError):
            world.prepare(claim)
        world.prepare(claim)
        world.assert_prepared(claim)

    def test_failed_prepare_can_be_unprepared(self, claim, step):
        world = World()
        world.faults.fail_at = step
        with pytest.raises(NvdraError):
            world.prepare(claim)
        world.unprepare(claim)
        world.assert_clean()


@pytest.mark.parametrize(("claim", "step"), every_step(unprepare, prepared=True))
def test_failed_unprepare_can_be_repeated(claim, step):
    world = World()
    world.prepare(claim)
    world.faults.clear()
    world.faults.fail_at = step
    try:
        world.unprepare(claim)
    except NvdraError:
        world.unprepare(claim)
    world.assert_clean()


def test_restart_plan_undoes_half_applied_attempt():
    world = World()
    die(world, prepare, WITH_RESTART, 6)
    assert world.machine.settings
    world.restart()
    world.prepare(WITH_RESTART)
    assert [step for step in world.faults.log if "gpu-0/" in step] == [
        "undo gpu-0/clock",
        "undo gpu-0/mode",
        "apply gpu-0/mode",
        "apply gpu-0/clock",
    ]
