"""State in, one call, state out: what prepare and unprepare promise."""

from pathlib import Path

import pytest

from nvdra_core.errors import (
    ApiError,
    ClaimError,
    DeviceConflictError,
    FileError,
    HostError,
    NotReadyError,
    StaleClaimError,
)
from nvdra_core.runtime.clock import Deadline
from nvdra_node.checkpoint.model import RecordState
from tests.beds.memory.claim_world import (
    CDI,
    PLAIN,
    STATE,
    WITH_EFFECTS,
    WITH_RESTART,
    World,
    a_claim,
)


@pytest.fixture
def world():
    return World()


class TestAnswer:
    def test_a_claim_gets_its_devices_in_order(self, world):
        claim = a_claim(devices=("gpu-1", "gpu-0"))
        devices = world.prepare(claim)
        assert [(d.request, d.device) for d in devices] == [("r0", "gpu-1"), ("r1", "gpu-0")]
        assert devices[0].cdi_ids == ("gpu.example.com/claim=c1-gpu-1",)
        world.assert_prepared(claim)

    def test_a_plain_claim_costs_one_flush_and_its_unprepare_none(self, world):
        world.prepare(PLAIN)
        assert world.files.syncs == 1
        world.unprepare(PLAIN)
        assert world.files.syncs == 1

    def test_effects_are_journalled_before_they_are_applied(self, world):
        world.prepare(WITH_EFFECTS)
        log = world.faults.log
        first_write = next(i for i, step in enumerate(log) if "rename" in step and "claims" in step)
        assert first_write < log.index("apply gpu-0/mode") < log.index("apply gpu-0/clock")
        assert world.files.syncs == 3, "the intents, the first outcome, the completed record"

    def test_a_uid_that_is_a_path_is_refused(self, world):
        for uid in ("../../x", "a/b", ""):
            with pytest.raises(ClaimError, match="uid"):
                world.prepare(a_claim(uid=uid))
            with pytest.raises(ClaimError, match="uid"):
                world.unprepare(a_claim(uid=uid))
        assert world.files.paths() == ()


class TestRepeatedPrepare:
    def test_the_answer_is_the_same_and_nothing_is_written(self, world):
        first = world.prepare(PLAIN)
        world.faults.clear()
        assert world.prepare(PLAIN) == first
        assert world.claims.reads == 2
        assert world.faults.log == []

    def test_it_works_after_a_restart_with_the_api_down(self, world):
        first = world.prepare(WITH_EFFECTS)
        world.restart()
        world.claims.is_down = True
        assert world.prepare(WITH_EFFECTS) == first

    def test_a_vanished_cdi_file_is_made_again(self, world):
        world.prepare(WITH_EFFECTS)
        before = world.files.read(world.cdi_path())
        world.files.remove(world.cdi_path())
        world.restart()
        world.prepare(WITH_EFFECTS)
        assert world.files.read(world.cdi_path()) == before

    def test_a_vanished_device_is_told(self, world):
        world.prepare(PLAIN)
        world.machine.devices.remove("gpu-0")
        with pytest.raises(HostError, match="gpu-0 is gone"):
            world.prepare(PLAIN)

    def test_an_effect_that_is_gone_is_applied_again(self, world):
        world.prepare(WITH_EFFECTS)
        world.machine.settings.clear()
        world.prepare(WITH_EFFECTS)
        world.assert_prepared(WITH_EFFECTS)
        world.unprepare(WITH_EFFECTS)
        world.assert_clean()


class TestReboot:
    @pytest.mark.parametrize("claim", [PLAIN, WITH_EFFECTS, WITH_RESTART])
    def test_everything_is_brought_about_again(self, world, claim):
        first = world.prepare(claim)
        world.reboot()
        assert world.files.read(world.cdi_path()) is None
        assert world.prepare(claim) == first
        world.assert_prepared(claim)

    def test_it_works_with_the_api_down(self, world):
        world.prepare(WITH_EFFECTS)
        world.reboot()
        world.claims.is_down = True
        world.prepare(WITH_EFFECTS)
        world.assert_prepared(WITH_EFFECTS)

    def test_the_api_knows_better_than_the_record(self, world):
        world.prepare(PLAIN)
        world.reboot()
        moved = a_claim(devices=("gpu-4",))
        assert world.prepare(moved)[0].device == "gpu-4"

    def test_a_claim_that_is_gone_is_not_served_from_its_record(self, world):
        world.prepare(PLAIN)
        world.reboot()
        world.claims.delete(PLAIN.ref)
        with pytest.raises(StaleClaimError):
            world.transaction.prepare(PLAIN.ref, Deadline(1, world.clock))

    def test_a_record_of_the_last_boot_does_not_hold_its_device(self, world):
        world.prepare(PLAIN)
        world.reboot()
        other = a_claim("c2")
        world.prepare(other)
        with pytest.raises(DeviceConflictError):
            world.prepare(PLAIN)
        world.unprepare(PLAIN)
        world.assert_prepared(other)

    def test_what_was_found_in_the_last_boot_is_not_put_back(self, world):
        world.machine.settings["gpu-0/mode"] = "odd"
        world.prepare(WITH_EFFECTS)
        world.reboot()
        world.prepare(WITH_EFFECTS)
        world.unprepare(WITH_EFFECTS)
        assert world.machine.settings == {}


class TestConflicts:
    @pytest.mark.parametrize("holder", [PLAIN, WITH_EFFECTS])
    def test_a_device_is_given_to_one_claim(self, world, holder):
        world.prepare(holder)
        with pytest.raises(DeviceConflictError, match="claim-c1"):
            world.prepare(a_claim("c2"))
        world.unprepare(holder)
        world.prepare(a_claim("c2"))

    def test_a_half_prepared_claim_holds_its_devices(self, world):
        world.machine.not_ready = 1
        with pytest.raises(NotReadyError):
            world.prepare(WITH_EFFECTS, timeout_s=0.005)
        with pytest.raises(DeviceConflictError):
            world.prepare(a_claim("c2"))

    def test_a_refused_claim_leaves_nothing(self, world):
        world.prepare(PLAIN)
        with pytest.raises(DeviceConflictError):
            world.prepare(a_claim("c2", set={"mode": "x"}))
        world.unprepare(a_claim("c2"))
        world.unprepare(PLAIN)
        world.assert_clean()

    def test_an_admins_claim_goes_beside_the_owners(self, world):
        world.prepare(WITH_EFFECTS)
        admin = a_claim("c2", admin=True)
        world.prepare(admin)
        world.unprepare(admin)
        world.assert_prepared(WITH_EFFECTS)

    def test_a_new_claim_of_the_same_name_is_another_claim(self, world):
        world.prepare(PLAIN)
        new = a_claim("c2", name=PLAIN.ref.name, devices=("gpu-1",))
        world.prepare(new)
        assert world.prepare(PLAIN)
        world.unprepare(PLAIN)
        world.assert_prepared(new)

    def test_the_uid_of_a_replaced_claim_is_refused(self, world):
        world.claims.add(a_claim("c2", name=PLAIN.ref.name))
        with pytest.raises(StaleClaimError):
            world.transaction.prepare(PLAIN.ref, Deadline(1, world.clock))


class TestNotReady:
    def test_it_is_tried_again_inside_the_deadline(self, world):
        world.machine.not_ready = 3
        world.prepare(WITH_EFFECTS)
        world.assert_prepared(WITH_EFFECTS)

    def test_the_api_is_asked_once_however_often_it_is_tried(self, world):
        world.machine.not_ready = 3
        world.prepare(WITH_EFFECTS)
        assert world.claims.reads == 1

    def test_when_time_is_over_the_journal_stays_and_the_next_call_goes_on(self, world):
        world.machine.not_ready = 1
        with pytest.raises(NotReadyError):
            world.prepare(WITH_EFFECTS, timeout_s=0.005)
        assert world.deps.records.get("c1").state is RecordState.STARTED
        syncs = world.files.syncs
        world.prepare(WITH_EFFECTS)
        assert world.files.syncs == syncs + 2, "the first outcome and the completed record"
        world.assert_prepared(WITH_EFFECTS)

    def test_a_stopping_process_does_not_wait(self, world):
        world.machine.not_ready = 100
        world.deps.stopping.set()
        with pytest.raises(NotReadyError):
            world.prepare(WITH_EFFECTS)

    def test_what_a_changed_plan_does_not_want_is_undone_first(self, world):
        world.machine.not_ready = 1
        with pytest.raises(NotReadyError):
            world.prepare(WITH_EFFECTS, timeout_s=0.005)
        moved = a_claim(devices=("gpu-6",), set={"mode": "fast"})
        world.prepare(moved)
        world.assert_prepared(moved)
        world.unprepare(moved)
        world.assert_clean()


class TestUnprepare:
    def test_of_an_unknown_claim_is_a_success(self, world):
        world.unprepare(PLAIN)
        world.unprepare(PLAIN)

    def test_needs_neither_api_nor_device(self, world):
        world.prepare(PLAIN)
        world.claims.is_down = True
        world.machine.devices.clear()
        world.restart()
        world.unprepare(PLAIN)
        world.assert_clean()

    def test_removes_a_stray_cdi_file(self, world):
        world.prepare(PLAIN)
        world.files.remove(world.record_path())
        world.restart()
        world.unprepare(PLAIN)
        world.assert_clean()

    def test_puts_back_what_was_there(self, world):
        world.machine.settings["gpu-0/mode"] = "odd"
        world.prepare(WITH_EFFECTS)
        world.unprepare(WITH_EFFECTS)
        assert world.machine.settings == {"gpu-0/mode": "odd"}

    def test_half_undone_does_not_read_as_completed(self, world):
        world.prepare(WITH_EFFECTS)
        world.faults.clear()
        world.faults.fail_at = 5  # the second undo, after three steps of the journal
        with pytest.raises(HostError):
            world.unprepare(WITH_EFFECTS)
        assert world.deps.records.get("c1").state is RecordState.STARTED
        world.prepare(WITH_EFFECTS)
        world.assert_prepared(WITH_EFFECTS)

    def test_a_full_disk_does_not_stop_it(self, world):
        world.prepare(WITH_EFFECTS)
        world.files.full |= {STATE / "claims", CDI}
        world.unprepare(WITH_EFFECTS)
        world.assert_clean()


class TestBadDisks:
    @pytest.mark.parametrize("fault", ["read_only", "full"])
    @pytest.mark.parametrize("directory", [STATE / "claims", CDI])
    @pytest.mark.parametrize("claim", [PLAIN, WITH_EFFECTS])
    def test_prepare_fails_by_the_files_name_and_succeeds_later(
        self, world, fault, directory, claim
    ):
        getattr(world.files, fault).add(directory)
        with pytest.raises(FileError) as error:
            world.prepare(claim)
        assert error.value.path.startswith(str(directory))
        getattr(world.files, fault).clear()
        world.prepare(claim)
        world.assert_prepared(claim)

    @pytest.mark.parametrize("claim", [PLAIN, WITH_EFFECTS])
    def test_a_full_state_directory_leaves_nothing_for_the_container_runtime(self, world, claim):
        world.files.full.add(STATE / "claims")
        with pytest.raises(FileError):
            world.prepare(claim)
        world.assert_clean()

    @pytest.mark.parametrize(
        "content", [b"", b"garbage", b'{"schema":9}', b'{"schema":1,"checksum":']
    )
    def test_a_bad_record_stops_nobody_and_its_claim_is_prepared_anew(self, world, content):
        other = a_claim("c2", devices=("gpu-1",))
        world.prepare(PLAIN)
        world.prepare(other)
        world.files.put(world.record_path("c1"), content)
        world.restart()
        world.prepare(other)
        world.prepare(PLAIN)
        world.assert_prepared(PLAIN)
        assert len(world.deps.records.quarantined) == 1


class TestApi:
    def test_a_claim_never_seen_needs_the_api(self, world):
        world.claims.is_down = True
        with pytest.raises(ApiError):
            world.prepare(PLAIN)
        assert world.files.paths() == ()

    def test_an_unprepare_overtakes_a_prepare_that_is_reading(self, world):
        world.claims.after_read = lambda: world.unprepare(PLAIN)
        with pytest.raises(StaleClaimError, match="unprepared while it was being prepared"):
            world.prepare(PLAIN)
        world.assert_clean()


def test_paths_are_what_operators_look_for(world):
    world.prepare(PLAIN)
    assert world.files.paths() == (
        Path("/run/cdi/gpu.example.com-claim_c1.yaml"),
        Path("/var/lib/nvdra/gpu/claims/c1.json"),
    )
