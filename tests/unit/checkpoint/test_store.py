"""Records on disk: restarts, quarantine, failures, index."""

import errno
from pathlib import Path

import pytest
from msgspec.structs import replace

from nvdra_core.errors import FileError, RecordError
from nvdra_node.cdi.edits import ClaimSpec
from nvdra_node.checkpoint.claim import Allocation, AllocationResult
from nvdra_node.checkpoint.model import PreparedDevice, Record, RecordState
from nvdra_node.checkpoint.store import RecordStore, is_valid_uid
from nvdra_node.host.files import HostFiles
from tests.fakes.host.files import FakeFiles

STATE = Path("/state")
ASKED = Allocation(results=(AllocationResult(request="r", pool="p", device="gpu-5"),))


def a_record(uid="u1", device="gpu-0", hold="gpu:0", state=RecordState.COMPLETED):
    return Record(
        uid=uid,
        namespace="ns",
        name="c",
        state=state,
        boot_id="b",
        holds=(hold,),
        devices=(PreparedDevice(request="r", pool="p", device=device, cdi_ids=("k=v",)),),
        cdi=ClaimSpec(devices=()),
    )


def a_store(files):
    store = RecordStore(STATE, files)
    store.load()
    return store


@pytest.fixture(params=["fake", "real"])
def any_store(request, tmp_path):
    """The same rules on memory and on the disk."""
    files, state = (
        (FakeFiles(), STATE) if request.param == "fake" else (HostFiles(), tmp_path / "s")
    )

    def open_store():
        store = RecordStore(state, files)
        store.load()
        return store

    return open_store


def test_records_survive_a_restart(any_store):
    store = any_store()
    store.put(a_record("u1"))
    store.put(a_record("u2", state=RecordState.STARTED))
    store.remove("u1")
    store.remove("u1")
    again = any_store()
    assert again.all() == (a_record("u2", state=RecordState.STARTED),)
    assert again.quarantined == ()


def test_bad_file_is_quarantined_with_its_reason(any_store, tmp_path):
    store = any_store()
    store.put(a_record("u1"))
    store.put(a_record("u2"))
    path = store._path("u1")
    store._files.replace(path, b"garbage")
    again = any_store()
    assert [record.uid for record in again.all()] == ["u2"]
    (bad,) = again.quarantined
    assert bad.path == path.parent.parent / "quarantine" / "u1.json"
    assert again._files.read(bad.path) == b"garbage"
    assert "garbled" in again._files.read(bad.path.with_name("u1.json.reason")).decode()
    again.put(a_record("u1"))
    assert len(any_store().all()) == 2


def test_quarantined_claim_is_known_after_restarts(any_store):
    store = any_store()
    store.put(a_record("u1"))
    store._files.replace(store._path("u1"), b"garbage")
    for _ in range(2):
        again = any_store()
        assert again.is_quarantined("u1")
        assert not again.is_quarantined("u2")


def test_full_disk_does_not_prevent_quarantine():
    files = FakeFiles()
    files.put(STATE / "claims/u1.json", b"garbage")
    files.full.add(STATE / "quarantine")
    store = a_store(files)
    assert files.read(STATE / "quarantine/u1.json") == b"garbage"
    files.full.clear()
    store.put(a_record("u1"))


def test_second_bad_file_does_not_replace_the_first():
    files = FakeFiles()
    for content in (b"one", b"two"):
        files.put(STATE / "claims/u1.json", content)
        a_store(files)
    assert files.read(STATE / "quarantine/u1.json") == b"one"
    assert files.read(STATE / "quarantine/u1.json.2") == b"two"


def test_record_of_newer_release_is_kept_unchanged():
    files = FakeFiles()
    data = b'{"schema":9,"whatever":1}\n'
    files.put(STATE / "claims/u1.json", data)
    newer = b'{"schema":9,"checksum":"crc32:00000000","record":{}}\n'
    files.put(STATE / "claims/u2.json", newer)
    store = a_store(files)
    assert len(store.quarantined) == 2
    assert files.read(STATE / "quarantine/u2.json") == newer
    assert "newer release" in store.quarantined[1].reason


def test_bad_file_that_cannot_be_moved_is_not_overwritten():
    files = FakeFiles()
    files.put(STATE / "claims/u1.json", b"garbage")
    files.put(STATE / "claims/u2.json", b"garbage")
    files.read_only.add(STATE / "claims")
    store = a_store(files)
    files.read_only.clear()
    with pytest.raises(FileError, match="could not be moved away"):
        store.put(a_record("u1"))
    assert files.read(STATE / "claims/u1.json") == b"garbage"
    store.put(a_record("u3"))


@pytest.mark.parametrize("name", ["../x.json", "u1", "notes.txt", ".hidden.json", "a b.json"])
def test_file_with_invalid_name_is_quarantined(name):
    files = FakeFiles()
    path = STATE / "claims" / Path(name).name
    files.put(path, b"{}")
    assert [bad.path.name for bad in a_store(files).quarantined] == [path.name]


def test_record_under_another_claims_name_is_quarantined():
    files = FakeFiles()
    a_store(files).put(a_record("u1"))
    files.put(STATE / "claims/u2.json", files.read(STATE / "claims/u1.json") or b"")
    store = a_store(files)
    assert "of claim uid u1" in store.quarantined[0].reason
    assert store.get("u1") is not None


def test_unfinished_writes_are_removed():
    files = FakeFiles()
    files.put(STATE / "claims/.u1.json.tmp", b"half")
    assert a_store(files).quarantined == ()
    assert files.paths() == ()


@pytest.mark.parametrize(
    "uid", ["../../etc/passwd", "a/b", "", ".", "..", "a" * 64, "a\n", "-a", "ü"]
)
def test_invalid_uid_never_becomes_a_path(uid):
    assert not is_valid_uid(uid)
    store = a_store(FakeFiles())
    with pytest.raises(RecordError):
        store.put(a_record(uid))
    with pytest.raises(RecordError):
        store.remove(uid)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_failed_write_keeps_the_previous_record(code, step):
    files = FakeFiles()
    store = a_store(files)
    store.put(a_record("u1", device="gpu-0"))
    files.faults.clear()
    files.faults.fail_at, files.faults.error = step, code
    with pytest.raises(FileError) as failure:
        store.put(a_record("u1", device="gpu-1"))
    assert "/state/claims" in failure.value.path
    assert store.get("u1") == a_record("u1", device="gpu-0")
    assert a_store(files).get("u1") == a_record("u1", device="gpu-0")
    assert store.sharing("x", ["gpu-1"], []) == ()


def test_failed_write_error_names_remedy():
    files = FakeFiles()
    store = a_store(files)
    files.full.add(STATE / "claims")
    with pytest.raises(FileError, match=r"cannot write .*: .*; free some space"):
        store.put(a_record())
    store.remove("u1")


def test_sharing_finds_devices_and_holds():
    store = a_store(FakeFiles())
    store.put(a_record("u1", "gpu-0", "gpu:0"))
    store.put(a_record("u2", "gpu-0", "gpu:9"))
    store.put(a_record("u3", "gpu-3", "gpu:0"))
    found = store.sharing("u1", ["gpu-0"], ["gpu:0"])
    assert [record.uid for record in found] == ["u2", "u3"]
    store.put(a_record("u2", "gpu-7", "gpu:7"))
    store.remove("u3")
    assert store.sharing("u1", ["gpu-0"], ["gpu:0"]) == ()
    assert [record.uid for record in store.sharing("", ["gpu-7"], [])] == ["u2"]
    assert not [uids for uids in store._index.values() if not uids]


def test_sharing_finds_devices_of_a_started_claim():
    store = a_store(FakeFiles())
    store.put(replace(a_record("u1"), devices=(), holds=(), claim=ASKED))
    assert [record.uid for record in store.sharing("", ["gpu-5"], [])] == ["u1"]


def test_put_flushes_once_and_remove_never():
    files = FakeFiles()
    store = a_store(files)
    store.put(a_record())
    assert files.syncs == 1
    store.remove("u1")
    assert files.syncs == 1


def test_memory_is_authoritative_after_load():
    files = FakeFiles()
    store = a_store(files)
    store.put(a_record())
    files.put(STATE / "claims/u1.json", b"garbage")
    assert store.get("u1") == a_record()
