"""NVIDIA's own programs on a simulated root: clients that we did not write. One that dislikes it finds our mistake."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.beds.cluster.artifacts import programs
from tests.lib.required import not_run
from tests.sim import profile, smi
from tests.sim.api import SimRoot


def need_real_smi() -> None:
    if smi.real() is None:
        not_run(f"NVIDIA's own nvidia-smi could not be had: {smi.why_not()}")


def run(root: SimRoot, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [root.nvidia_smi, *arguments], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", profile.names())
def test_nvidia_smi_lists_the_gpus(tmp_path: Path, name: str) -> None:
    root = SimRoot.create(tmp_path / "host", name)
    expected = [f"GPU {g.index}: {g.model.name} (UUID: {g.uuid})" for g in root.profile.gpus]
    assert run(root, "-L").splitlines() == expected


@pytest.mark.parametrize("name", profile.names())
def test_the_real_table_and_report_have_every_gpu(tmp_path: Path, name: str) -> None:
    need_real_smi()
    root = SimRoot.create(tmp_path / "host", name)
    table = run(root)
    assert f"Driver Version: {root.profile.driver_version}" in table
    report = run(root, "-q")
    for gpu in root.profile.gpus:
        assert gpu.nvml_bus_id in table
        assert f": {gpu.uuid}\n" in report
        assert f": {gpu.serial}\n" in report
    assert "Unknown Error" not in report
    assert "ERR!" not in table


def test_the_real_program_makes_and_shows_mig_devices(h100: SimRoot) -> None:
    need_real_smi()
    run(h100, "-i", "0", "-mig", "1")
    run(h100, "mig", "-cgi", "9,19", "-C", "-i", "0")
    listed = run(h100, "-L")
    assert "MIG 3g.40gb     Device  0:" in listed
    assert "MIG 1g.10gb     Device  1:" in listed
    assert "40448MiB" in run(h100)
    assert len(h100.mig_instances()) == 2
    run(h100, "mig", "-dci", "-i", "0")
    run(h100, "mig", "-dgi", "-i", "0")
    assert h100.mig_instances() == []


def test_compute_mode_and_time_slice_are_set(h100: SimRoot) -> None:
    uuid = h100.profile.uuids[3]
    run(h100, "-i", uuid, "-c", "EXCLUSIVE_PROCESS")
    run(h100, "compute-policy", "-i", uuid, "--set-timeslice", "2")
    with h100.state() as state:
        assert state.layout.gpus[3].compute_mode == 3
        assert [gpu.timeslice for gpu in state.layout.gpus][:5] == [0, 0, 0, 2, 0]


def test_nvidia_smi_without_driver_reports_no_communication(h100: SimRoot) -> None:
    h100.unload_driver()
    assert "couldn't communicate with the NVIDIA driver" in run(h100, code=9)


def nvidia_ctk() -> Path:
    if programs.NVIDIA.is_built():
        return programs.NVIDIA.home() / "nvidia-ctk"
    not_run("nvidia-ctk is not built: run  python -m tests.beds.cluster build")


def cdi_spec(root: SimRoot, *, over_proc: bool = False) -> dict[str, object]:
    command = [
        str(nvidia_ctk()), "--quiet", "cdi", "generate", "--format", "json", "--driver-root", str(root.path),
        "--dev-root", str(root.path), "--nvidia-cdi-hook-path", "/usr/bin/nvidia-cdi-hook",
    ]  # fmt: skip
    if over_proc:
        script = 'mount --bind "$1" /proc/driver && shift && exec "$@"'
        command = ["unshare", "-m", "sh", "-c", script, "sh", str(root.proc / "driver"), *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    spec: dict[str, object] = json.loads(done.stdout)
    return spec


@pytest.mark.parametrize("name", profile.names())
def test_nvidia_ctk_generates_a_spec(tmp_path: Path, name: str) -> None:
    root = SimRoot.create(tmp_path / "host", name)
    spec = cdi_spec(root)
    devices = {device["name"] for device in spec["devices"]}  # type: ignore[attr-defined]
    assert set(root.profile.uuids) <= devices
    edits = json.dumps(spec["containerEdits"])
    version = root.profile.driver_version
    for wanted in (
        f"libcuda.so.{version}",
        f"libnvidia-ml.so.{version}",
        "/usr/bin/nvidia-smi",
        "/dev/nvidiactl",
    ):
        assert wanted in edits


def test_nvidia_ctk_finds_mig_devices_where_proc_is_the_roots(h100: SimRoot) -> None:
    """nvidia-ctk reads MIG capabilities from /proc itself, whatever the driver root is."""
    if os.geteuid() != 0:
        not_run("a mount over /proc/driver needs root")
    need_real_smi()
    run(h100, "-i", "1", "-mig", "1")
    run(h100, "mig", "-cgi", "9", "-C", "-i", "1")
    spec = cdi_spec(h100, over_proc=True)
    mig = [device for device in spec["devices"] if device["name"] == "1:0"]  # type: ignore[attr-defined]
    assert "/dev/nvidia-caps/nvidia-cap" in json.dumps(mig)
