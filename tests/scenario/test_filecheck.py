"""CDI files of prepared claims that somebody deletes come back."""

import pytest
from msgspec.structs import replace

from nvdra_node.checkpoint.model import RecordState
from nvdra_node.kubeletplugin.claims import filecheck
from tests.beds.memory.claim_world import CDI, PLAIN, WITH_EFFECTS, World, a_claim


@pytest.fixture
def world():
    return World()


def look(world):
    return filecheck.write_missing(world.transaction, world.deps)


def test_a_deleted_file_is_written_again_and_its_path_is_told(world, caplog):
    other = a_claim("c2", devices=("gpu-1",))
    for claim in (WITH_EFFECTS, other):
        world.prepare(claim)
    before = world.files.read(world.cdi_path())
    world.files.remove(world.cdi_path())
    assert look(world) == 1
    assert world.files.read(world.cdi_path()) == before
    (record,) = caplog.records
    assert record.levelname == "WARNING" and str(world.cdi_path()) in str(record.__dict__)


def test_all_files_come_back_when_the_directory_was_emptied(world):
    uids = [f"c{n}" for n in range(3)]
    for n, uid in enumerate(uids):
        world.prepare(a_claim(uid, devices=(f"gpu-{n}",)))
    for uid in uids:
        world.files.remove(world.cdi_path(uid))
    assert look(world) == 3
    assert all(world.files.read(world.cdi_path(uid)) for uid in uids)


def test_with_all_files_there_nothing_is_read_or_written(world):
    world.prepare(PLAIN)
    world.faults.clear()
    assert look(world) == 0
    assert world.faults.log == []


def test_claims_that_are_not_prepared_get_no_file(world):
    world.prepare(PLAIN)
    record = world.deps.records.get("c1")
    world.files.remove(world.cdi_path())
    for unprepared in (
        replace(record, state=RecordState.STARTED),
        replace(record, boot_id="old"),
    ):
        world.deps.records.put(unprepared)
        assert look(world) == 0
    world.deps.records.put(record)
    world.unprepare(PLAIN)
    assert look(world) == 0
    world.assert_clean()


def test_a_claim_whose_device_is_gone_gets_no_file_and_stops_no_other(world):
    world.prepare(PLAIN)
    world.prepare(a_claim("c2", devices=("gpu-1",)))
    for uid in ("c1", "c2"):
        world.files.remove(world.cdi_path(uid))
    world.machine.devices.remove("gpu-0")
    assert look(world) == 1
    assert world.files.read(world.cdi_path()) is None
    assert world.files.read(world.cdi_path("c2")) is not None


def test_files_of_others_do_not_count(world):
    world.prepare(PLAIN)
    world.files.remove(world.cdi_path())
    world.files.replace(CDI / "other-claim_c1.yaml", b"{}")
    assert look(world) == 1
