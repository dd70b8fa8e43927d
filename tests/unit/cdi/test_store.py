"""CDI files on disk: names, modes, repair, and errors of the directory."""

import os
import stat
from pathlib import Path

import pytest

from nvdra_core.errors import FileError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.cdi.edits import CdiDevice, ClaimSpec, ContainerEdits
from nvdra_node.cdi.store import SpecFiles
from nvdra_node.host.files import HostFiles
from tests.fakes.clock import FakeClock
from tests.fakes.driver import NoDriverFiles
from tests.fakes.host.files import FakeFiles

CDI = Path("/run/cdi")
KIND = "k8s.gpu.nvidia.com/claim"
SPEC = ClaimSpec(devices=(CdiDevice(name="u1-gpu-0", edits=ContainerEdits()),))


def deadline():
    return Deadline(1, FakeClock())


def store_on(files, directory=CDI):
    store = SpecFiles(directory, KIND, files, NoDriverFiles(), directory.with_name("files"))
    store.open()
    return store


def test_file_is_world_readable_and_named_as_upstreams(tmp_path):
    store = store_on(HostFiles(), tmp_path / "cdi")
    mask = os.umask(0o077)
    try:
        store.write("u1", SPEC, deadline())
    finally:
        os.umask(mask)
    (path,) = (tmp_path / "cdi").iterdir()
    assert path.name == "k8s.gpu.nvidia.com-claim_u1.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_deleted_directory_is_created_again(tmp_path):
    store = store_on(HostFiles(), tmp_path / "cdi")
    (tmp_path / "cdi").rmdir()
    store.write("u1", SPEC, deadline())
    assert store.uids() == ("u1",)


@pytest.mark.parametrize(
    ("where", "words"), [("read_only", "read-only"), ("full", "free some space")]
)
def test_failed_write_names_directory_and_remedy(where, words):
    files = FakeFiles()
    store = store_on(files)
    getattr(files, where).add(CDI)
    with pytest.raises(FileError, match=words) as error:
        store.write("u1", SPEC, deadline())
    assert error.value.path.startswith("/run/cdi")
    assert files.paths() == ()


def test_uids_ignores_files_of_other_programs():
    files = FakeFiles()
    store = store_on(files)
    store.write("u1", SPEC, deadline())
    files.put(CDI / "nvidia.yaml", b'{"cdiVersion":"0.5.0"}')
    files.put(CDI / "k8s.gpu.nvidia.com-claim_u2.yaml", b"---\ncdiVersion: 0.5.0\n")
    files.put(CDI / "k8s.gpu.nvidia.com-claim_u3.json", b'{"cdiVersion":"0.5.0"}')
    files.put(CDI / "k8s.compute-domain.nvidia.com-claim_u4.yaml", b'{"cdiVersion":"0.5.0"}')
    assert store.uids() == ("u1",)


def test_open_removes_only_our_unfinished_files():
    files = FakeFiles()
    ours, other = CDI / ".k8s.gpu.nvidia.com-claim_u1.yaml.tmp", CDI / ".other.yaml.tmp"
    files.put(ours, b"{")
    files.put(other, b"{")
    store_on(files)
    assert files.paths() == (other,)


def test_repair_writes_only_missing_or_changed_files():
    files = FakeFiles()
    store = store_on(files)
    store.write("u1", SPEC, deadline())
    assert not store.repair("u1", SPEC, deadline())
    files.put(CDI / "k8s.gpu.nvidia.com-claim_u1.yaml", b"{}")
    assert store.repair("u1", SPEC, deadline())
    store.remove("u1")
    assert store.repair("u1", SPEC, deadline())
    assert not store.repair("u1", SPEC, deadline())


def test_cdi_files_are_not_flushed():
    files = FakeFiles()
    store_on(files).write("u1", SPEC, deadline())
    assert files.syncs == 0
