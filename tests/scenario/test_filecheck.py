"""Deleted CDI files of prepared claims are restored."""

from msgspec.structs import replace

from nvdra_node.checkpoint.model import RecordState
from nvdra_node.kubeletplugin.claims import filecheck
from tests.beds.memory.claim_world import CDI, PLAIN, WITH_EFFECTS, a_claim


def check(world):
    return filecheck.write_missing(world.transaction, world.deps)


def test_deleted_file_is_restored_and_logged(world, caplog):
    other = a_claim("c2", devices=("gpu-1",))
    for claim in (WITH_EFFECTS, other):
        world.prepare(claim)
    before = world.files.read(world.cdi_path())
    world.files.remove(world.cdi_path())
    assert check(world) == 1
    assert world.files.read(world.cdi_path()) == before
    (record,) = caplog.records
    assert record.levelname == "WARNING" and str(world.cdi_path()) in str(record.__dict__)


def test_all_files_of_emptied_directory_are_restored(world):
    uids = [f"c{n}" for n in range(3)]
    for n, uid in enumerate(uids):
        world.prepare(a_claim(uid, devices=(f"gpu-{n}",)))
    for uid in uids:
        world.files.remove(world.cdi_path(uid))
    assert check(world) == 3
    assert all(world.files.read(world.cdi_path(uid)) for uid in uids)


def test_complete_directory_causes_no_file_access(world):
    world.prepare(PLAIN)
    world.faults.clear()
    assert check(world) == 0
    assert world.faults.log == []


def test_unprepared_claims_get_no_file(world):
    world.prepare(PLAIN)
    record = world.deps.records.get("c1")
    world.files.remove(world.cdi_path())
    for unprepared in (
        replace(record, state=RecordState.STARTED),
        replace(record, boot_id="old"),
    ):
        world.deps.records.put(unprepared)
        assert check(world) == 0
    world.deps.records.put(record)
    world.unprepare(PLAIN)
    assert check(world) == 0
    world.assert_clean()


def test_missing_device_affects_only_its_own_file(world):
    world.prepare(PLAIN)
    world.prepare(a_claim("c2", devices=("gpu-1",)))
    for uid in ("c1", "c2"):
        world.files.remove(world.cdi_path(uid))
    world.machine.devices.remove("gpu-0")
    assert check(world) == 1
    assert world.files.read(world.cdi_path()) is None
    assert world.files.read(world.cdi_path("c2")) is not None


def test_files_of_other_programs_are_ignored(world):
    world.prepare(PLAIN)
    world.files.remove(world.cdi_path())
    world.files.replace(CDI / "other-claim_c1.yaml", b"{}")
    assert check(world) == 1
