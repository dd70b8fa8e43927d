"""A claim that was deallocated and allocated again under its UID without an unprepare."""

import pytest
from msgspec.structs import replace

from nvdra_core.errors import DeviceConflictError, HostError, StaleClaimError
from nvdra_core.runtime.clock import Deadline
from tests.beds.memory.claim_world import PLAIN, WITH_EFFECTS, a_claim

MOVED = a_claim(devices=("gpu-4",))


def test_reallocated_claim_gets_new_and_frees_old_devices(world):
    world.prepare(PLAIN)
    assert [d.device for d in world.prepare(MOVED)] == ["gpu-4"]
    world.assert_prepared(MOVED)
    assert world.files.syncs == 2
    world.prepare(a_claim("c2"))


def test_reallocation_undoes_old_effects(world):
    world.machine.settings["gpu-0/mode"] = "odd"
    world.prepare(WITH_EFFECTS)
    assert [d.device for d in world.prepare(MOVED)] == ["gpu-4"]
    assert world.machine.settings == {"gpu-0/mode": "odd"}


def test_changed_config_is_a_reallocation(world):
    world.machine.settings["gpu-0/mode"] = "odd"
    world.prepare(a_claim(set={"mode": "fast"}))
    slow = a_claim(set={"mode": "slow"})
    world.prepare(slow)
    assert world.machine.settings == {"gpu-0/mode": "slow"}
    world.unprepare(slow)
    assert world.machine.settings == {"gpu-0/mode": "odd"}


def test_changed_annotations_are_no_reallocation(world):
    world.prepare(WITH_EFFECTS)
    world.faults.clear()
    world.prepare(replace(WITH_EFFECTS, annotations={"resource.kubernetes.io/x": "y"}))
    assert [step for step in world.faults.log if "apply" in step or "rename" in step] == []


def test_claims_that_swap_devices_do_not_deadlock(world):
    world.prepare(PLAIN)
    world.prepare(a_claim("c2", devices=("gpu-4",)))
    with pytest.raises(DeviceConflictError, match="gpu-4 is still prepared"):
        world.prepare(MOVED)
    world.prepare(a_claim("c2"))
    world.prepare(MOVED)
    world.assert_prepared(MOVED)


def test_failed_undo_error_names_both_allocations(world):
    world.prepare(WITH_EFFECTS)
    world.machine.is_stuck = True
    with pytest.raises(HostError, match=r"claim ns/claim-c1 .* gpu-4 .* gpu-0, .* is stuck"):
        world.prepare(MOVED)
    world.machine.is_stuck = False
    world.prepare(MOVED)
    world.assert_prepared(MOVED)


def test_record_answers_while_api_is_down(world):
    first = world.prepare(PLAIN)
    world.claims.add(MOVED)
    world.claims.is_down = True
    assert world.transaction.prepare(PLAIN.ref, Deadline(5, world.clock)) == first


def test_deallocated_claim_is_refused(world):
    world.prepare(PLAIN)
    world.claims.delete(PLAIN.ref)
    with pytest.raises(StaleClaimError):
        world.transaction.prepare(PLAIN.ref, Deadline(5, world.clock))


def test_stale_read_does_not_restore_old_allocation(world):
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
