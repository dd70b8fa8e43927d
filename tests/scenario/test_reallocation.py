"""A claim that was deallocated and allocated anew, under its UID, while nobody unprepared it."""

import pytest
from msgspec.structs import replace

from nvdra_core.errors import DeviceConflictError, HostError, StaleClaimError
from nvdra_core.runtime.clock import Deadline
from tests.scenario.crash.world import PLAIN, WITH_EFFECTS, World, a_claim

MOVED = a_claim(devices=("gpu-4",))


@pytest.fixture
def world():
    return World()


def test_the_new_devices_are_given_and_the_old_are_free(world):
    world.prepare(PLAIN)
    assert [d.device for d in world.prepare(MOVED)] == ["gpu-4"]
    world.assert_prepared(MOVED)
    assert world.files.syncs == 2
    world.prepare(a_claim("c2"))


def test_what_was_done_for_the_old_is_undone(world):
    world.machine.settings["gpu-0/mode"] = "odd"
    world.prepare(WITH_EFFECTS)
    assert [d.device for d in world.prepare(MOVED)] == ["gpu-4"]
    assert world.machine.settings == {"gpu-0/mode": "odd"}


def test_another_configuration_is_another_allocation(world):
    world.machine.settings["gpu-0/mode"] = "odd"
    world.prepare(a_claim(set={"mode": "fast"}))
    slow = a_claim(set={"mode": "slow"})
    world.prepare(slow)
    assert world.machine.settings == {"gpu-0/mode": "slow"}
    world.unprepare(slow)
    assert world.machine.settings == {"gpu-0/mode": "odd"}


def test_other_annotations_are_no_other_allocation(world):
    world.prepare(WITH_EFFECTS)
    world.faults.clear()
    world.prepare(replace(WITH_EFFECTS, annotations={"resource.kubernetes.io/x": "y"}))
    assert [step for step in world.faults.log if "apply" in step or "rename" in step] == []


def test_claims_that_change_places_do_not_wait_for_each_other(world):
    world.prepare(PLAIN)
    world.prepare(a_claim("c2", devices=("gpu-4",)))
    with pytest.raises(DeviceConflictError, match="gpu-4 is still prepared"):
        world.prepare(MOVED)
    world.prepare(a_claim("c2"))
    world.prepare(MOVED)
    world.assert_prepared(MOVED)


def test_what_cannot_be_undone_is_told_with_both(world):
    world.prepare(WITH_EFFECTS)
    world.machine.is_stuck = True
    with pytest.raises(HostError, match=r"claim ns/claim-c1 .* gpu-4 .* gpu-0, .* is stuck"):
        world.prepare(MOVED)
    world.machine.is_stuck = False
    world.prepare(MOVED)
    world.assert_prepared(MOVED)


def test_with_the_api_down_the_record_answers(world):
    first = world.prepare(PLAIN)
    world.claims.add(MOVED)
    world.claims.is_down = True
    assert world.transaction.prepare(PLAIN.ref, Deadline(5, world.clock)) == first


def test_a_claim_that_is_not_allocated_any_more_is_not_answered(world):
    world.prepare(PLAIN)
    world.claims.delete(PLAIN.ref)
    with pytest.raises(StaleClaimError):
        world.transaction.prepare(PLAIN.ref, Deadline(5, world.clock))


def test_a_call_that_read_the_old_does_not_bring_it_back(world):
    world.prepare(PLAIN)
    overtaking: list[bool] = []

    def overtake():
        if not overtaking:
            overtaking.append(True)
            world.prepare(MOVED)

    world.claims.after_read = overtake
    late = world.transaction.prepare(PLAIN.ref, Deadline(5, world.clock))
    assert [device.device for device in late] == ["gpu-4"]
    world.assert_prepared(MOVED)
