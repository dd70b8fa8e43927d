"""What the preflight decides about Kubernetes, the container runtime and IMEX, without a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.beds.rack import collection

checks = collection.load("filter.checks")
programs = collection.load("module_utils.cluster_programs")

CDI = "/var/run/cdi"
DIRECTORIES = ["/etc/cdi", "/var/run/cdi"]


def a_runtime(**changes: Any) -> dict[str, Any]:
    """Facts of a containerd that can do CDI."""
    known = {"name": "containerd", "version": "2.1.9", "enable_cdi": True}
    return {**known, "cdi_spec_dirs": DIRECTORIES, **changes}


def a_host(**changes: Any) -> dict[str, Any]:
    """Facts of a host that is fit."""
    facts = {
        "kubelet_version": "1.34.2",
        "runtimes": [a_runtime()],
        "missing_imex": [],
        "imex_channels": 2048,
    }
    return {**facts, **changes}


@pytest.mark.parametrize("version", ["1.34.0", "1.34.1+k3s1", "1.35.0-eks-abc", "2.0.0", ""])
def test_kubelet_that_can_do_dra_is_fit(version: str) -> None:
    assert checks.cluster_problems(a_host(kubelet_version=version), CDI) == []


@pytest.mark.parametrize("version", ["1.33.9", "1.9.0", "1.33.5+rke2r1"])
def test_kubelet_that_is_too_old_is_named(version: str) -> None:
    (problem,) = checks.cluster_problems(a_host(kubelet_version=version), CDI)
    assert f"the kubelet is {version}" in problem
    assert "1.34" in problem


@pytest.mark.parametrize(
    ("version", "enable_cdi", "is_on"),
    [
        ("1.7.24", True, True),
        ("1.7.24", False, False),
        ("1.6.20~ds1", None, False),
        ("2.1.9", False, False),
        ("2.4.0", None, True),
        ("", None, True),
    ],
)
def test_cdi_is_on_by_setting_or_by_version(version: str, enable_cdi: Any, is_on: bool) -> None:
    host = a_host(runtimes=[a_runtime(version=version, enable_cdi=enable_cdi)])
    found = checks.cluster_problems(host, CDI)
    assert ["CDI is off" in problem for problem in found] == ([] if is_on else [True])


@pytest.mark.parametrize(
    ("directories", "root", "is_read"),
    [
        (["/etc/cdi", "/run/cdi"], "/var/run/cdi", True),
        (["/etc/cdi", "/var/run/cdi/"], "/run/cdi", True),
        ([], "/var/run/cdi", True),
        (["/etc/cdi"], "/var/run/cdi", False),
    ],
)
def test_runtime_must_read_the_directory_of_cdi_files(
    directories: list[str], root: str, is_read: bool
) -> None:
    for name in ("containerd", "crio"):
        host = a_host(runtimes=[a_runtime(name=name, cdi_spec_dirs=directories)])
        found = checks.cluster_problems(host, root)
        assert ["cdi_spec_dirs" in problem for problem in found] == ([] if is_read else [True])


def test_one_runtime_with_cdi_is_enough() -> None:
    off = a_runtime(enable_cdi=False)
    assert checks.cluster_problems(a_host(runtimes=[off, a_runtime()]), CDI) == []
    assert checks.cluster_problems(a_host(runtimes=[]), CDI) == []


def imex_problems(*hosts: dict[str, Any]) -> list[list[str]]:
    """Of each host of a rack."""
    hostvars = {f"h{number}": {"nvdra_node": facts} for number, facts in enumerate(hosts)}
    return [checks.imex_problems(facts, hostvars, hostvars) for facts in hosts]


def test_host_without_nvidia_imex_is_unfit_for_domains() -> None:
    ((problem,),) = imex_problems(a_host(missing_imex=["/usr/bin/nvidia-imex"]))
    assert problem.startswith("no /usr/bin/nvidia-imex: install")


def test_host_with_other_channels_than_its_rack_is_named() -> None:
    found = imex_problems(a_host(), a_host(imex_channels=1024), a_host())
    assert [len(problems) for problems in found] == [0, 1, 0]
    assert "1024 IMEX channels, and 2048 on most" in found[1][0]


def test_host_without_channels_is_named_once() -> None:
    first, second = imex_problems(a_host(imex_channels=0), a_host())
    assert second == []
    (problem,) = first
    assert "no IMEX channels" in problem


def test_host_with_unknown_channels_is_no_problem() -> None:
    assert imex_problems(a_host(imex_channels=None)) == [[]]
    hostvars = {"a": {"nvdra_node": a_host()}, "unreachable": {}}
    assert checks.imex_problems(a_host(), hostvars, hostvars) == []


def a_service(**changes: Any) -> dict[str, Any]:
    known = {"unit": "nvdra-gpu-plugin.service", "endpoint": ":1", "metrics_path": "/metrics"}
    return {**known, "min_devices": 4, **changes}


def test_gate_without_metrics_is_refused_in_preflight() -> None:
    assert checks.metrics_problems([a_service()]) == []
    (problem,) = checks.metrics_problems([a_service(metrics_path=""), a_service(metrics_path="")])
    assert "metricsPath is empty" in problem
    assert checks.metrics_problems([a_service(metrics_path="", min_devices=0)]) == []
    assert checks.metrics_problems([a_service(metrics_path="", endpoint="")]) == []


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Kubernetes v1.34.2\n", "1.34.2"),
        ("k3s version v1.34.1+k3s1 (24fc436e)\ngo version go1.24.6\n", "1.34.1+k3s1"),
        ("containerd github.com/containerd/containerd/v2 v2.1.9 abcdef", "2.1.9"),
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1", "1.6.20~ds1"),
        ("nothing", ""),
    ],
)
def test_version_is_read_from_what_programs_say(text: str, version: str) -> None:
    assert programs.version_in(text) == version


def test_flag_is_read_in_both_forms() -> None:
    assert programs.flag(["--v=2", "--node-ip=10.0.0.1"], "--node-ip") == "10.0.0.1"
    assert programs.flag(["-c", "/c.toml"], "--config", "-c") == "/c.toml"
    assert programs.flag(["--v=2", "-c"], "--config", "-c") == ""


def test_cdi_settings_are_read_from_a_whole_configuration() -> None:
    text = """
    disable_apparmor = false
    enable_cdi = true
    cdi_spec_dirs = ['/etc/cdi', "/var/run/cdi"]
"""
    assert programs.cdi_settings(text) == {"enable_cdi": True, "cdi_spec_dirs": DIRECTORIES}
    unset = '# cdi_spec_dirs = [\n#\t"/etc/cdi",\n# ]\n'
    assert programs.cdi_settings(unset) == {"enable_cdi": None, "cdi_spec_dirs": []}


class Machine:
    """Processes in a directory like /proc, and the programs that they run."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.proc = home / "proc"
        self.answers: dict[tuple[str, ...], str] = {}

    def starts(self, program: str, *arguments: str, name: str = "") -> str:
        """Run a program; its file."""
        path = self.home / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        place = self.proc / str(100 + len(list(self.proc.glob("*"))))
        place.mkdir(parents=True)
        argv = [name or str(path), *arguments]
        (place / "cmdline").write_text("".join(f"{word}\0" for word in argv))
        (place / "exe").symlink_to(path)
        return str(path)

    def run(self, argv: list[str]) -> tuple[int, str, str]:
        """What a program answers."""
        said = self.answers.get(tuple(argv))
        return (0, said, "") if said is not None else (1, "", "unknown")


def test_kubelet_and_runtime_are_found_as_they_run(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    kubelet = machine.starts("opt/bin/kubelet", "--node-ip=10.1.2.3", "--v=2")
    containerd = machine.starts("usr/bin/containerd", "--config=/c.toml")
    machine.answers = {
        (kubelet, "--version"): "Kubernetes v1.35.0",
        (containerd, "--config", "/c.toml", "config", "dump"): "enable_cdi = false\n",
        (containerd, "--version"): "containerd github.com/x 1.7.24 abc",
    }
    assert programs.kubelet_version(machine.run, machine.proc) == "1.35.0"
    assert programs.node_address(machine.proc) == "10.1.2.3"
    assert programs.runtimes(machine.run, machine.proc) == [
        {"name": "containerd", "version": "1.7.24", "enable_cdi": False, "cdi_spec_dirs": []}
    ]


def test_k3s_runs_its_containerd_under_another_name(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.starts("data/bin/k3s", "-c", "/k3s.toml", name="containerd")
    containerd = tmp_path / "data/bin/containerd"
    containerd.touch()
    machine.answers = {(str(containerd), "--config", "/k3s.toml", "config", "dump"): "x = 1\n"}
    assert [found["name"] for found in programs.runtimes(machine.run, machine.proc)] == [
        "containerd"
    ]


def test_containerd_of_docker_is_no_runtime_of_a_kubelet(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    containerd = machine.starts("usr/bin/containerd")
    machine.answers = {(containerd, "config", "dump"): 'disabled_plugins = ["cri"]\n'}
    assert programs.runtimes(machine.run, machine.proc) == []
