"""Claims with files beside their CDI file: written before it, repaired, removed, swept; records keep their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvdra_core.errors import FileError
from nvdra_node.kubeletplugin.claims import filecheck
from tests.beds.memory.claim_world import CDI, PLAIN, STATE, WITH_FILES, World
from tests.fakes.driver import content_of

FILES = STATE / "files"


def paths(world: World) -> list[Path]:
    return [path for path in world.files.paths() if path.parent in (FILES, CDI)]


def test_record_keeps_names_and_not_contents(world: World) -> None:
    world.prepare(WITH_FILES)
    record = world.deps.records.get("c1")
    assert record is not None and record.cdi is not None
    assert [(file.name, file.content) for file in record.cdi.files] == [
        ("r0.json", ""),
        ("r1.json", ""),
    ]
    assert content_of("r0.json").encode() not in (world.files.read(world.record_path()) or b"")


def test_record_without_files_is_stored_as_before(world: World) -> None:
    world.prepare(PLAIN)
    assert b"files" not in (world.files.read(world.record_path()) or b"")


def test_files_are_written_before_the_cdi_file(world: World) -> None:
    world.prepare(WITH_FILES)
    renames = [step.removeprefix("rename ") for step in world.faults.log if "rename" in step]
    files = [str(FILES / f"c1_{name}") for name in ("r0.json", "r1.json")]
    assert renames[-4:-1] == [*files, str(world.cdi_path())]


@pytest.mark.parametrize("lost", [FILES / "c1_r1.json", CDI / "gpu.example.com-claim_c1.yaml"])
def test_deleted_file_is_written_again(world: World, lost: Path) -> None:
    world.prepare(WITH_FILES)
    before = world.files.read(lost)
    world.files.remove(lost)
    assert filecheck.write_missing(world.transaction, world.deps) == 1
    assert world.files.read(lost) == before
    assert filecheck.write_missing(world.transaction, world.deps) == 0


def test_changed_file_is_repaired_by_repeated_prepare(world: World) -> None:
    world.prepare(WITH_FILES)
    world.files.replace(FILES / "c1_r0.json", b"changed")
    world.restart()
    world.prepare(WITH_FILES)
    world.assert_prepared(WITH_FILES)


def test_unprepare_removes_all_files(world: World) -> None:
    world.prepare(WITH_FILES)
    world.unprepare(WITH_FILES)
    world.assert_clean()


def test_full_disk_leaves_no_cdi_file(world: World) -> None:
    world.files.full.add(FILES)
    with pytest.raises(FileError, match="files"):
        world.prepare(WITH_FILES)
    assert paths(world) == []
    world.unprepare(WITH_FILES)
    world.assert_clean()


def test_sweep_removes_files_without_record(world: World) -> None:
    world.files.put(FILES / "stray_r0.json", b"")
    world.prepare(WITH_FILES)
    world.sweep_all()
    assert FILES / "stray_r0.json" not in world.files.paths()
    world.assert_prepared(WITH_FILES)


def test_unfinished_files_are_removed_at_start(world: World) -> None:
    world.prepare(WITH_FILES)
    world.files.put(FILES / ".c1_r0.json.tmp", b"half")
    world.restart()
    assert len(paths(world)) == 3
    assert world.deps.specs.missing({"c1": None, "c2": None}) == ("c2",)


def test_files_of_claims_with_similar_uids_stay(world: World) -> None:
    world.files.put(FILES / "c11_r0.json", b"")
    world.prepare(WITH_FILES)
    world.unprepare(WITH_FILES)
    assert paths(world) == [FILES / "c11_r0.json"]
    assert world.deps.specs.uids() == ("c11",)
