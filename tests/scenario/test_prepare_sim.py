"""Prepare on the simulated driver with NVIDIA's own nvidia-ctk: the CDI file that a container runtime would get."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.host.files import HostFiles
from nvdra_node.host.host import open_host
from nvdra_node.host.ports import HostRoots
from tests.beds.cluster.artifacts import programs
from tests.beds.cluster.errors import ClusterError
from tests.beds.memory.gpu_node import GpuProcess, a_claim
from tests.beds.memory.gpu_objects import interval
from tests.lib.required import not_run
from tests.sim.api import SimRoot

pytestmark = pytest.mark.sim
CLOCK = SystemClock()


@pytest.fixture(scope="module")
def toolkit_dir():
    try:
        return programs.find("nvidia-ctk").parent
    except ClusterError as error:
        not_run(f"nvidia-ctk is not built: {error}")


class SimNode(GpuProcess):
    """A simulated host with NVIDIA's own toolkit."""

    def __init__(self, sim: SimRoot, work: Path, toolkit_dir: Path) -> None:
        self.sim = sim
        self.ctk, self.hook = toolkit_dir / "nvidia-ctk", toolkit_dir / "nvidia-cdi-hook"
        roots = HostRoots(driver=sim.path, dev=sim.path / "dev", proc=sim.proc, sys=sim.sys)
        gates = "TimeSlicingSettings=true"
        super().__init__(open_host(roots), CLOCK, HostFiles(), work, gates)

    def cdi_files(self):
        return sorted(self.cdi.iterdir())

    def smi(self, *arguments):
        environment = {"PATH": os.environ["PATH"], "LD_PRELOAD": str(self.sim.nvml_library)}
        argv = [str(self.sim.nvidia_smi), *arguments]
        return subprocess.run(
            argv, env=environment, check=True, capture_output=True, text=True
        ).stdout


@pytest.fixture
def node(tmp_path, toolkit_dir):
    sim = SimRoot.create(tmp_path / "host", "h100x8")
    opened = SimNode(sim, tmp_path, toolkit_dir)
    yield opened
    opened.host.close()
    sim.destroy()


def test_cdi_file_names_existing_host_paths(node):
    node.prepare(a_claim(devices=("gpu-3",)))
    (path,) = node.cdi_files()
    spec = json.loads(path.read_text())
    root = str(node.sim.path)
    common = spec["containerEdits"]
    for mount in common["mounts"]:
        assert Path(mount["hostPath"]).exists()
        assert mount["hostPath"] == root + mount["containerPath"]
    assert any("libcuda.so." in mount["containerPath"] for mount in common["mounts"])
    assert not any("/socket" in mount["containerPath"] for mount in common["mounts"])
    (device,) = spec["devices"]
    nodes = [*common["deviceNodes"], *device["containerEdits"]["deviceNodes"]]
    for entry in nodes:
        assert entry["hostPath"] == root + entry["path"]
        assert stat.S_ISCHR(Path(entry["hostPath"]).stat().st_mode)
    paths = {entry["path"] for entry in nodes}
    assert {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia3"} <= paths
    assert not {"/dev/nvidia0", "/dev/nvidia2"} & paths
    assert {hook["path"] for hook in common["hooks"]} == {str(node.hook)}


OLDER = """#!/bin/sh
for option; do
  case $option in
    --no-all-device | --device-id=* | --feature-flag=*)
      name=${{option#--}}
      echo "level=error msg=\\"flag provided but not defined: -${{name%%=*}}\\"" >&2
      exit 1 ;;
  esac
done
exec {ctk} "$@"
"""


def test_toolkit_of_1_17_prepares_claims(tmp_path, toolkit_dir):
    older = tmp_path / "older"
    older.mkdir()
    (older / "nvidia-cdi-hook").symlink_to(toolkit_dir / "nvidia-cdi-hook")
    (older / "nvidia-ctk").write_text(OLDER.format(ctk=toolkit_dir / "nvidia-ctk"))
    (older / "nvidia-ctk").chmod(0o755)
    node = SimNode(SimRoot.create(tmp_path / "host", "h100x8"), tmp_path, older)
    node.prepare(a_claim(devices=("gpu-3",)))
    (path,) = node.cdi_files()
    spec = json.loads(path.read_text())
    assert [device["name"] for device in spec["devices"]] == ["c1-gpu-3"]
    assert any("libcuda.so." in m["containerPath"] for m in spec["containerEdits"]["mounts"])
    node.host.close()


def test_prepare_and_unprepare_leave_nothing(node):
    claim = a_claim(devices=("gpu-0", "gpu-7"))
    first = node.prepare(claim)
    assert node.prepare(claim) == first
    node.unprepare(claim)
    assert node.cdi_files() == []
    assert list((node.state / "claims").iterdir()) == []


def test_time_slice_is_set_on_gpu_and_reset(node):
    claim = a_claim(devices=("gpu-2",), configs=[interval("Long")])
    node.prepare(claim)
    assert node.smi("compute-policy", "-l").count("Long") == 1
    node.unprepare(claim)
    assert "Long" not in node.smi("compute-policy", "-l")


def test_time_slice_comes_back_after_driver_reload(node):
    claim = a_claim(devices=("gpu-2",), configs=[interval("Long")])
    node.prepare(claim)
    node.sim.unload_driver()
    node.sim.load_driver()
    assert "Long" not in node.smi("compute-policy", "-l")
    node.rescanner.rescan_if_due()
    (record,) = node.deps.records.all()
    assert node.transaction.renew_file(record, Deadline(20, CLOCK))
    assert node.smi("compute-policy", "-l").count("Long") == 1


def test_hung_gpu_unprepares_in_seconds_and_is_reset_later(node):
    claim = a_claim(devices=("gpu-2",), configs=[interval("Long")])
    node.prepare(claim)
    fault = node.sim.fault("*", gpu=2, hang=True)
    began_s = CLOCK.monotonic()
    node.unprepare(claim)
    assert CLOCK.monotonic() - began_s < 10
    assert not list((node.state / "claims").iterdir())
    node.sim.clear_fault(fault)
    assert "Long" in node.smi("compute-policy", "-l")
    plain = a_claim("next", devices=("gpu-2",))
    node.prepare(plain)
    assert "Long" not in node.smi("compute-policy", "-l")
    node.unprepare(plain)


def test_lost_gpu_affects_no_other(node):
    node.sim.lose(5)
    node.rescanner.trigger("test")
    node.rescanner.rescan_if_due()
    assert node.prepare(a_claim(devices=("gpu-4",)))


def test_driver_reload_is_noticed(node):
    node.prepare(a_claim())
    node.sim.unload_driver()
    node.unprepare(a_claim())
    node.sim.load_driver()
    node.rescanner.rescan_if_due()
    node.prepare(a_claim())


def test_driver_upgrade_replaces_library_mounts(node):
    node.prepare(a_claim("old"))
    node.sim.unload_driver()
    node.sim.load_driver("590.48.01")
    node.rescanner.rescan_if_due()
    node.prepare(a_claim("new", devices=("gpu-1",)))
    new, old = (path.read_text() for path in node.cdi_files())
    assert "libcuda.so.590.48.01" in new
    assert "libcuda.so.580" in old
