"""State, one call, state: what prepare and unprepare guarantee."""

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
    a_claim,
)


class TestPrepare:
    def test_devices_are_in_order_of_results(self, world):
        claim = a_claim(devices=("gpu-1", "gpu-0"))
        devices = world.prepare(claim)
        assert [(d.request, d.device) for d in devices] == [("r0", "gpu-1"), ("r1", "gpu-0")]
        assert devices[0].cdi_ids == ("gpu.example.com/claim=c1-gpu-1",)
        world.assert_prepared(claim)

    def test_plain_prepare_flushes_once_and_unprepare_never(self, world):
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

    def test_uid_with_a_path_is_refused(self, world):
        for uid in ("../../x", "a/b", ""):
            with pytest.raises(ClaimError, match="uid"):
                world.prepare(a_claim(uid=uid))
            with pytest.raises(ClaimError, match="uid"):
                world.unprepare(a_claim(uid=uid))
        assert world.files.paths() == ()


class TestRepeatedPrepare:
    def test_reply_is_the_same_and_nothing_is_written(self, world):
        first = world.prepare(PLAIN)
        world.faults.clear()
        assert world.prepare(PLAIN) == first
        assert world.claims.reads == 2
        assert world.faults.log == []

    def test_restart_with_api_down_repeats_the_reply(self, world):
        first = world.prepare(WITH_EFFECTS)
        world.restart()
        world.claims.is_down = True
        assert world.prepare(WITH_EFFECTS) == first

    def test_missing_cdi_file_is_restored(self, world):
        world.prepare(WITH_EFFECTS)
        before = world.files.read(world.cdi_path())
        world.files.remove(world.cdi_path())
        world.restart()
        world.prepare(WITH_EFFECTS)
        assert world.files.read(world.cdi_path()) == before

    def test_missing_device_is_an_error(self, world):
        world.prepare(PLAIN)
        world.machine.devices.remove("gpu-0")
        with pytest.raises(HostError, match="gpu-0 is missing"):
            world.prepare(PLAIN)

    def test_lost_effect_is_applied_again(self, world):
        world.prepare(WITH_EFFECTS)
        world.machine.settings.clear()
        world.prepare(WITH_EFFECTS)
        world.assert_prepared(WITH_EFFECTS)
        world.unprepare(WITH_EFFECTS)
        world.assert_clean()


class TestReboot:
    @pytest.mark.parametrize("claim", [PLAIN, WITH_EFFECTS, WITH_RESTART])
    def test_claim_is_prepared_again(self, world, claim):
        first = world.prepare(claim)
        world.reboot()
        assert world.files.read(world.cdi_path()) is None
        assert world.prepare(claim) == first
        world.assert_prepared(claim)

    def test_claim_is_prepared_again_with_api_down(self, world):
        world.prepare(WITH_EFFECTS)
        world.reboot()
        world.claims.is_down = True
        world.prepare(WITH_EFFECTS)
        world.assert_prepared(WITH_EFFECTS)

    def test_api_wins_over_the_record(self, world):
        world.prepare(PLAIN)
        world.reboot()
        moved = a_claim(devices=("gpu-4",))
        assert world.prepare(moved)[0].device == "gpu-4"

    def test_deleted_claim_is_not_served_from_its_record(self, world):
        world.prepare(PLAIN)
        world.reboot()
        world.claims.delete(PLAIN.ref)
        with pytest.raises(StaleClaimError):
            world.transaction.prepare(PLAIN.ref, Deadline(1, world.clock))

    def test_record_of_last_boot_holds_no_device(self, world):
        world.prepare(PLAIN)
        world.reboot()
        other = a_claim("c2")
        world.prepare(other)
        with pytest.raises(DeviceConflictError):
            world.prepare(PLAIN)
        world.unprepare(PLAIN)
        world.assert_prepared(other)

    def test_state_captured_in_last_boot_is_not_restored(self, world):
        world.machine.settings["gpu-0/mode"] = "odd"
        world.prepare(WITH_EFFECTS)
        world.reboot()
        world.prepare(WITH_EFFECTS)
        world.unprepare(WITH_EFFECTS)
        assert world.machine.settings == {}


class TestConflicts:
    @pytest.mark.parametrize("holder", [PLAIN, WITH_EFFECTS])
    def test_device_is_prepared_for_one_claim_only(self, world, holder):
        world.prepare(holder)
        with pytest.raises(DeviceConflictError, match="claim-c1"):
            world.prepare(a_claim("c2"))
        world.unprepare(holder)
        world.prepare(a_claim("c2"))

    def test_half_prepared_claim_holds_its_devices(self, world):
        world.machine.not_ready = 1
        with pytest.raises(NotReadyError):
            world.prepare(WITH_EFFECTS, timeout_s=0.005)
        with pytest.raises(DeviceConflictError):
            world.prepare(a_claim("c2"))

    def test_refused_claim_leaves_nothing(self, world):
        world.prepare(PLAIN)
        with pytest.raises(DeviceConflictError):
            world.prepare(a_claim("c2", set={"mode": "x"}))
        world.unprepare(a_claim("c2"))
        world.unprepare(PLAIN)
        world.assert_clean()

    def test_admin_claim_is_prepared_beside_the_owner(self, world):
        world.prepare(WITH_EFFECTS)
        admin = a_claim("c2", admin=True)
        world.prepare(admin)
        world.unprepare(admin)
        world.assert_prepared(WITH_EFFECTS)

    def test_new_claim_of_same_name_is_another_claim(self, world):
        world.prepare(PLAIN)
        new = a_claim("c2", name=PLAIN.ref.name, devices=("gpu-1",))
        world.prepare(new)
        assert world.prepare(PLAIN)
        world.unprepare(PLAIN)
        world.assert_prepared(new)

    def test_uid_of_replaced_claim_is_refused(self, world):
        world.claims.add(a_claim("c2", name=PLAIN.ref.name))
        with pytest.raises(StaleClaimError):
            world.transaction.prepare(PLAIN.ref, Deadline(1, world.clock))


class TestNotReady:
    def test_prepare_is_retried_inside_the_deadline(self, world):
        world.machine.not_ready = 3
        world.prepare(WITH_EFFECTS)
        world.assert_prepared(WITH_EFFECTS)

    def test_claim_is_read_once_for_all_retries(self, world):
        world.machine.not_ready = 3
        world.prepare(WITH_EFFECTS)
        assert world.claims.reads == 1

    def test_next_call_resumes_after_the_deadline(self, world):
        world.machine.not_ready = 1
        with pytest.raises(NotReadyError):
            world.prepare(WITH_EFFECTS, timeout_s=0.005)
        assert world.deps.records.get("c1").state is RecordState.STARTED
        syncs = world.files.syncs
        world.prepare(WITH_EFFECTS)
        assert world.files.syncs == syncs + 2, "the first outcome and the completed record"
        world.assert_prepared(WITH_EFFECTS)

    def test_stopping_process_does_not_wait(self, world):
        world.machine.not_ready = 100
        world.deps.stopping.set()
        with pytest.raises(NotReadyError):
            world.prepare(WITH_EFFECTS)

    def test_effects_not_in_a_changed_plan_are_undone_first(self, world):
        world.machine.not_ready = 1
        with pytest.raises(NotReadyError):
            world.prepare(WITH_EFFECTS, timeout_s=0.005)
        moved = a_claim(devices=("gpu-6",), set={"mode": "fast"})
        world.prepare(moved)
        world.assert_prepared(moved)
        world.unprepare(moved)
        world.assert_clean()


class TestUnprepare:
    def test_unprepare_of_unknown_claim_succeeds(self, world):
        world.unprepare(PLAIN)
        world.unprepare(PLAIN)

    def test_unprepare_needs_neither_api_nor_device(self, world):
        world.prepare(PLAIN)
        world.claims.is_down = True
        world.machine.devices.clear()
        world.restart()
        world.unprepare(PLAIN)
        world.assert_clean()

    def test_unprepare_removes_a_stray_cdi_file(self, world):
        world.prepare(PLAIN)
        world.files.remove(world.record_path())
        world.restart()
        world.unprepare(PLAIN)
        world.assert_clean()

    def test_unprepare_restores_the_original_state(self, world):
        world.machine.settings["gpu-0/mode"] = "odd"
        world.prepare(WITH_EFFECTS)
        world.unprepare(WITH_EFFECTS)
        assert world.machine.settings == {"gpu-0/mode": "odd"}

    def test_half_undone_record_is_not_completed(self, world):
        world.prepare(WITH_EFFECTS)
        world.faults.clear()
        world.faults.fail_at = 5  # the second undo, after three steps of the journal
        with pytest.raises(HostError):
            world.unprepare(WITH_EFFECTS)
        assert world.deps.records.get("c1").state is RecordState.STARTED
        world.prepare(WITH_EFFECTS)
        world.assert_prepared(WITH_EFFECTS)

    def test_full_disk_does_not_stop_unprepare(self, world):
        world.prepare(WITH_EFFECTS)
        world.files.full |= {STATE / "claims", CDI}
        world.unprepare(WITH_EFFECTS)
        world.assert_clean()


class TestBadDisks:
    @pytest.mark.parametrize("fault", ["read_only", "full"])
    @pytest.mark.parametrize("directory", [STATE / "claims", CDI])
    @pytest.mark.parametrize("claim", [PLAIN, WITH_EFFECTS])
    def test_prepare_error_names_the_file_and_retry_succeeds(self, world, fault, directory, claim):
        getattr(world.files, fault).add(directory)
        with pytest.raises(FileError) as error:
            world.prepare(claim)
        assert error.value.path.startswith(str(directory))
        getattr(world.files, fault).clear()
        world.prepare(claim)
        world.assert_prepared(claim)

    @pytest.mark.parametrize("claim", [PLAIN, WITH_EFFECTS])
    def test_full_state_directory_leaves_no_cdi_file(self, world, claim):
        world.files.full.add(STATE / "claims")
        with pytest.raises(FileError):
            world.prepare(claim)
        world.assert_clean()

    @pytest.mark.parametrize(
        "content", [b"", b"garbage", b'{"schema":9}', b'{"schema":1,"checksum":']
    )
    def test_claim_with_bad_record_is_prepared_again(self, world, content):
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
    def test_unknown_claim_needs_the_api(self, world):
        world.claims.is_down = True
        with pytest.raises(ApiError):
            world.prepare(PLAIN)
        assert world.files.paths() == ()

    def test_unprepare_wins_over_a_prepare_that_reads(self, world):
        world.claims.after_read = lambda: world.unprepare(PLAIN)
        with pytest.raises(StaleClaimError, match="unprepared while it was being prepared"):
            world.prepare(PLAIN)
        world.assert_clean()


def test_paths_of_files_are_stable(world):
    world.prepare(PLAIN)
    assert world.files.paths() == (
        Path("/run/cdi/gpu.example.com-claim_c1.yaml"),
        Path("/var/lib/nvdra/gpu/claims/c1.json"),
    )
