"""The process dies, or a step fails, anywhere in what the shipped GPU driver does; the GPUs converge all the same."""

import contextlib

import pytest

from nvdra_core.errors import NvdraError
from tests.beds.memory.gpu_node import a_claim
from tests.beds.memory.gpu_objects import interval
from tests.beds.memory.gpu_world import CLAIMS, LONG, PLAIN, GpuWorld
from tests.fakes.host.files import Crash

LIVES_ON = {
    "restart": lambda world: world.restart(),
    "driver loaded again": lambda world: world.reload_driver(),
    "reboot": lambda world: world.reboot(),
    "power lost, names kept": lambda world: world.reboot(power_loss=True),
    "power lost, names lost": lambda world: world.reboot(power_loss=False),
}
NEXT = a_claim("next", devices=("gpu-0", "gpu-1"))


def nothing(world, claim):
    """No claim is prepared yet."""


def prepare(world, claim):
    world.prepare(claim)


def unprepare(world, claim):
    world.unprepare(claim)


def unprepare_hung(world, claim):
    """GPU 0 hangs, which is not known yet."""
    world.machine.hang(0)
    world.unprepare(claim)


def owe(world, claim):
    """The claim ended while its GPU hung; the GPU is well again."""
    world.prepare(claim)
    unprepare_hung(world, claim)
    world.machine.heal(0)
    assert world.owed()


def settle(world, claim):
    world.settle()


def load_driver(world, claim):
    world.prepare(claim)
    world.machine.reload_driver()
    world.set_exclusive()
    world.node.rescanner.rescan_if_due()


def renew(world, claim):
    world.renew()


def every_step(before, act, claims=CLAIMS):
    found = []
    for name, claim in claims.items():
        world = GpuWorld()
        before(world, claim)
        world.faults.clear()
        act(world, claim)
        steps = range(1, world.faults.steps + 1)
        found += [pytest.param(claim, step, id=f"{name}-{step}") for step in steps]
    return found


def die(before, act, claim, step):
    """A world whose process died before that step."""
    world = GpuWorld()
    before(world, claim)
    world.faults.clear()
    world.faults.die_at = step
    with pytest.raises(Crash):
        act(world, claim)
    world.machine.heal(0)
    return world


def fail(before, act, claim, step):
    """A world in which that step failed once."""
    world = GpuWorld()
    before(world, claim)
    world.faults.clear()
    world.faults.fail_at = step
    with contextlib.suppress(NvdraError):
        act(world, claim)
    world.machine.heal(0)
    world.faults.clear()
    return world


def end(world, claim):
    """The claim ends; whatever a GPU owes is settled."""
    world.unprepare(claim)
    assert world.settle()
    world.assert_clean()


def give_to_next(world, claim):
    """The claim ends, and another one that asks for nothing special gets its GPU at once."""
    world.unprepare(claim)
    world.prepare(NEXT)
    world.assert_prepared(NEXT)
    end(world, NEXT)


@pytest.mark.parametrize("life", LIVES_ON)
@pytest.mark.parametrize(("claim", "step"), every_step(nothing, prepare))
class TestDyingInPrepare:
    def test_retry_prepares(self, claim, step, life):
        world = die(nothing, prepare, claim, step)
        LIVES_ON[life](world)
        world.prepare(claim)
        world.assert_prepared(claim)
        end(world, claim)

    def test_unprepare_leaves_nothing(self, claim, step, life):
        world = die(nothing, prepare, claim, step)
        LIVES_ON[life](world)
        give_to_next(world, claim)

    def test_sweep_of_deleted_claim_leaves_nothing(self, claim, step, life):
        world = die(nothing, prepare, claim, step)
        LIVES_ON[life](world)
        world.node.claims.delete(claim.ref)
        world.sweep_all()
        world.assert_clean()


@pytest.mark.parametrize("life", LIVES_ON)
@pytest.mark.parametrize(("claim", "step"), every_step(prepare, unprepare))
class TestDyingInUnprepare:
    def test_retry_leaves_nothing(self, claim, step, life):
        world = die(prepare, unprepare, claim, step)
        LIVES_ON[life](world)
        give_to_next(world, claim)

    def test_prepare_again_prepares(self, claim, step, life):
        world = die(prepare, unprepare, claim, step)
        LIVES_ON[life](world)
        world.prepare(claim)
        world.assert_prepared(claim)
        end(world, claim)


SLICED = {"long": LONG, "mixed": CLAIMS["mixed"]}


@pytest.mark.parametrize("life", LIVES_ON)
@pytest.mark.parametrize(("claim", "step"), every_step(prepare, unprepare_hung, SLICED))
class TestDyingWhileTheGpuHangs:
    def test_next_claim_never_inherits_the_slice(self, claim, step, life):
        world = die(prepare, unprepare_hung, claim, step)
        LIVES_ON[life](world)
        give_to_next(world, claim)

    def test_background_settles(self, claim, step, life):
        world = die(prepare, unprepare_hung, claim, step)
        LIVES_ON[life](world)
        end(world, claim)

    def test_prepare_again_prepares(self, claim, step, life):
        world = die(prepare, unprepare_hung, claim, step)
        LIVES_ON[life](world)
        world.prepare(claim)
        world.assert_prepared(claim)
        end(world, claim)


@pytest.mark.parametrize("life", LIVES_ON)
@pytest.mark.parametrize("act", [settle, lambda world, claim: world.prepare(NEXT)])
@pytest.mark.parametrize("step", range(1, 7))
def test_crash_while_settling_converges(act, step, life):
    world = GpuWorld()
    owe(world, LONG)
    world.faults.clear()
    world.faults.die_at = step
    try:
        act(world, LONG)
    except Crash:
        LIVES_ON[life](world)
    world.faults.clear()
    world.prepare(NEXT)
    world.assert_prepared(NEXT)
    end(world, NEXT)


@pytest.mark.parametrize("life", LIVES_ON)
@pytest.mark.parametrize(("claim", "step"), every_step(load_driver, renew, SLICED))
class TestDyingInRenewal:
    def test_retry_prepares(self, claim, step, life):
        world = die(load_driver, renew, claim, step)
        LIVES_ON[life](world)
        world.prepare(claim)
        world.assert_prepared(claim)
        end(world, claim)

    def test_renewal_goes_on(self, claim, step, life):
        world = die(load_driver, renew, claim, step)
        LIVES_ON[life](world)
        record = world.deps.records.get(claim.ref.uid)
        if record is not None and record.boot_id == world.machine.boot_id:
            world.renew()
            world.assert_prepared(claim)
        end(world, claim)


STAGES = {
    "prepare": (nothing, prepare, CLAIMS),
    "unprepare": (prepare, unprepare, CLAIMS),
    "unprepare hung": (prepare, unprepare_hung, SLICED),
    "renew": (load_driver, renew, SLICED),
}


@pytest.mark.parametrize(
    ("stage", "claim", "step"),
    [
        pytest.param(stage, *param.values, id=f"{stage}-{param.id}")
        for stage, (before, act, claims) in STAGES.items()
        for param in every_step(before, act, claims)
    ],
)
class TestStepsThatFail:
    def test_prepare_prepares(self, stage, claim, step):
        world = fail(*STAGES[stage][:2], claim, step)
        world.prepare(claim)
        world.assert_prepared(claim)
        end(world, claim)

    def test_next_claim_gets_clean_gpu(self, stage, claim, step):
        give_to_next(fail(*STAGES[stage][:2], claim, step), claim)


def test_gpu_bed_detects_wrong_state():
    """What the assertions above see: a slice too much, and one too little."""
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


def test_sharing_claims_survive_crashes():
    one, two = (a_claim(uid, shares=(uid,), configs=[interval("Long")]) for uid in ("one", "two"))
    for step in range(1, 12):
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
