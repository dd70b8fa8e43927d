"""Contract of files, for the real adapter and the fake; and what only the real one does."""

import errno
import os
import stat
from pathlib import Path

import pytest

from nvdra_core.errors import FileError
from nvdra_node.host.files import HostFiles, file_error, temp_path
from tests.fakes.host.files import Crash, FakeFiles


@pytest.fixture(params=[HostFiles, FakeFiles])
def files(request):
    return request.param()


@pytest.fixture
def directory(files, tmp_path):
    files.make_directory(tmp_path / "a/b")
    files.make_directory(tmp_path / "a/b")
    return tmp_path / "a/b"


class TestBoth:
    def test_overwriting_keeps_the_file_itself(self, files, directory):
        files.overwrite(directory / "x", b"1\n\n\n")
        files.overwrite(directory / "x", b"22\n\n")
        assert files.read(directory / "x") == b"22\n\n"

    def test_what_was_written_is_read(self, files, directory):
        for durable in (False, True):
            files.replace(directory / "x", b"1", durable=durable)
            files.replace(directory / "x", b"22", durable=durable)
            assert files.read(directory / "x") == b"22"
        assert files.names(directory) == ("x",)

    def test_missing_file_is_none(self, files, directory):
        assert files.read(directory / "x") is None
        assert files.remove(directory / "x") is False
        assert files.names(directory / "none") == ()
        assert files.fingerprint(directory / "x") is None
        with pytest.raises(FileError, match="cannot move"):
            files.move(directory / "x", directory / "y")

    def test_remove_and_move(self, files, directory):
        files.replace(directory / "x", b"1")
        files.move(directory / "x", directory / "y")
        assert files.names(directory) == ("y",)
        assert files.remove(directory / "y") is True
        assert files.names(directory) == ()

    def test_first_missing_path_is_returned(self, files, directory):
        files.replace(directory / "x", b"1")
        here, gone = str(directory / "x"), str(directory / "gone")
        assert files.first_missing([here, str(directory)]) is None
        assert files.first_missing([here, gone, "/also/gone"]) == gone

    def test_fingerprint_changes_with_the_file(self, files, directory):
        files.replace(directory / "x", b"1")
        before = files.fingerprint(directory / "x")
        assert files.fingerprint(directory / "x") == before
        files.replace(directory / "x", b"2")
        assert files.fingerprint(directory / "x") != before


class TestReal:
    def test_mode_is_as_requested(self, tmp_path):
        mask = os.umask(0o077)
        try:
            HostFiles().replace(tmp_path / "x", b"1", mode=0o644)
            HostFiles().make_directory(tmp_path / "a/cdi")
        finally:
            os.umask(mask)
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644
        assert stat.S_IMODE((tmp_path / "a/cdi").stat().st_mode) == 0o755

    def test_existing_directory_keeps_its_mode(self, tmp_path):
        (tmp_path / "there").mkdir(mode=0o711)
        HostFiles().make_directory(tmp_path / "there", mode=0o700)
        assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o711

    def test_link_is_replaced_and_not_followed(self, tmp_path):
        (tmp_path / "target").write_text("keep")
        (tmp_path / "x").symlink_to(tmp_path / "target")
        HostFiles().replace(tmp_path / "x", b"1")
        assert (tmp_path / "target").read_text() == "keep"

    def test_link_at_the_temporary_path_is_not_followed(self, tmp_path):
        (tmp_path / "target").write_text("keep")
        temp_path(tmp_path / "x").symlink_to(tmp_path / "target")
        HostFiles().replace(tmp_path / "x", b"1")
        assert (tmp_path / "target").read_text() == "keep"
        assert (tmp_path / "x").read_bytes() == b"1"

    def test_failed_write_leaves_only_the_old_file(self, tmp_path):
        (tmp_path / "x").mkdir()
        with pytest.raises(FileError) as error:
            HostFiles().replace(tmp_path / "x", b"1")
        assert error.value.path == str(tmp_path / "x")
        assert [p.name for p in tmp_path.iterdir()] == ["x"]

    def test_missing_directory_is_named(self, tmp_path):
        with pytest.raises(FileError, match="create its directory"):
            HostFiles().replace(tmp_path / "none/x", b"1")

    def test_temporary_names_have_no_cdi_suffix(self):
        assert temp_path(Path("/run/cdi/x.yaml")) == Path("/run/cdi/.x.yaml.tmp")

    @pytest.mark.parametrize(
        ("code", "remedy"),
        [(errno.ENOSPC, "free some space"), (errno.EROFS, "read-only"), (errno.EACCES, "owner")],
    )
    def test_errors_have_a_remedy(self, code, remedy):
        text = str(file_error("write", Path("/x"), OSError(code, os.strerror(code))))
        assert text.startswith("cannot write /x: ")
        assert remedy in text


class TestFakeFaults:
    def test_fake_dies_at_the_given_step(self):
        files = FakeFiles()
        files.faults.die_at = 3
        with pytest.raises(Crash):
            files.replace(Path("/d/x"), b"1", durable=True)
        assert files.paths() == (Path("/d/.x.tmp"),)
        with pytest.raises(Crash):
            files.remove(Path("/d/.x.tmp"))

    @pytest.mark.parametrize("step", [1, 2, 3])
    def test_fake_fails_once_and_leaves_no_partial_file(self, step):
        files = FakeFiles()
        files.faults.fail_at = step
        with pytest.raises(FileError):
            files.replace(Path("/d/x"), b"1", durable=True)
        assert files.paths() == ()
        files.replace(Path("/d/x"), b"1", durable=True)

    def test_power_failure_empties_unflushed_files(self):
        files = FakeFiles()
        files.replace(Path("/d/flushed"), b"1", durable=True)
        files.replace(Path("/d/lazy"), b"1")
        files.replace(Path("/run/x"), b"1")
        files.lose_power(keep_names=True)
        assert files.read(Path("/d/flushed")) == b"1"
        assert files.read(Path("/d/lazy")) == b""
        assert files.read(Path("/run/x")) is None

    def test_power_failure_may_lose_or_restore_names(self):
        files = FakeFiles()
        files.replace(Path("/d/old"), b"1", durable=True)
        files.settle()
        files.remove(Path("/d/old"))
        files.replace(Path("/d/new"), b"1", durable=True)
        files.lose_power(keep_names=False)
        assert files.paths() == (Path("/d/old"),)


def test_overwriting_keeps_the_inode(tmp_path):
    path = tmp_path / "hosts"
    HostFiles().overwrite(path, b"old")
    with path.open("rb") as reader:
        HostFiles().overwrite(path, b"new")
        assert reader.read() == b"new"
