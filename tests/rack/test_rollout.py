"""What the playbooks decide, without a host: the filters of the collection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.beds.rack import collection

rollout = collection.load("filter.rollout")

GPU, DOMAIN = "gpu.nvidia.com", "compute-domain.nvidia.com"
POLICY = {
    "device_plugin": "refuse",
    "foreign_driver": "refuse",
    "require_driver": True,
    "require_installed": False,
    "drivers": [GPU],
    "imex_mode": "driverManaged",
    "vendor_imex": "keep",
    "vendor_imex_unit": "nvidia-imex.service",
}


def a_host(**changes: Any) -> dict[str, Any]:
    """Facts of a host that is fit."""
    facts = {
        "python": "3.12.3",
        "machine": "aarch64",
        "package_format": "deb",
        "package_version": "",
        "previous_version": "",
        "cached_packages": [],
        "is_in_repository": False,
        "rpm_keys": [],
        "is_systemd": True,
        "has_kubelet": True,
        "driver_version": "580.95.05",
        "device_plugin_sockets": [],
        "foreign_sockets": [],
        "units": {},
    }
    return {**facts, **changes}


def rack(name: str, count: int) -> dict[str, str]:
    return {f"{name}-{i:02}": name for i in range(1, count + 1)}


def test_canary_is_first_and_batches_stay_within_racks() -> None:
    racks = {**rack("r1", 18), **rack("r2", 18)}
    assert rollout.batches(list(racks), racks) == [1, 6, 6, 5, 6, 6, 6]


@pytest.mark.parametrize(
    ("canaries", "size", "expected"),
    [(1, 4, [1, 1, 2]), (0, 4, [2, 2]), (2, 4, [2, 2]), (3, 1, [2, 1, 1]), (9, 9, [2, 2])],
)
def test_batches_of_small_racks(canaries: int, size: int, expected: list[int]) -> None:
    racks = {**rack("r1", 2), **rack("r2", 2)}
    assert rollout.batches(list(racks), racks, canaries, size) == expected


def test_batches_cover_hosts_without_rack() -> None:
    assert rollout.batches([], {}) == []
    assert rollout.batches(["a", "b", "c"], {}) == [1, 2]


def test_racks_are_ordered_whatever_the_inventory_order() -> None:
    racks = {"a1": "a", "b1": "b", "a2": "a", "b2": "b"}
    assert rollout.rollout_order(["b1", "a1", "b2", "x", "a2"], racks) == [
        "b1",
        "b2",
        "a1",
        "a2",
        "x",
    ]


def test_rack_of_a_host_is_the_first_group_that_is_one() -> None:
    groups = {"all": ["h1"], "rack_7": ["h1"], "rack_8": ["h1", "h2"], "racks": ["h3"]}
    assert rollout.racks_of(groups, "rack_.*") == {"h1": "rack_7", "h2": "rack_8"}


def test_unchecked_and_failed_hosts_are_left_out() -> None:
    hostvars = {"a": {"nvdra_problems": []}, "b": {"nvdra_problems": ["no kubelet"]}, "c": {}}
    assert rollout.fit(["a", "b", "c"], hostvars) == ["a"]


def test_fit_host_has_no_problems() -> None:
    assert rollout.problems(a_host(), POLICY) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"is_systemd": False}, "systemd"),
        ({"package_format": ""}, "dpkg"),
        ({"python": "3.9.18"}, "3.9.18"),
        ({"has_kubelet": False}, "kubelet"),
        ({"driver_version": ""}, "driver is not loaded"),
        ({"device_plugin_sockets": ["nvidia-gpu.sock"]}, "nvidia-gpu.sock"),
        ({"foreign_sockets": ["gpu.nvidia.com"]}, "gpu.nvidia.com"),
    ],
)
def test_failed_host_lists_its_problems(change: dict[str, Any], word: str) -> None:
    (problem,) = rollout.problems(a_host(**change), POLICY)
    assert word in problem


def test_rhel_9_old_python3_beside_packaged_one_passes() -> None:
    assert rollout.problems(a_host(package_format="rpm", python="3.9.18"), POLICY) == []


def test_rivals_are_allowed_by_an_explicit_variable_only() -> None:
    host = a_host(device_plugin_sockets=["nvidia-gpu.sock"], foreign_sockets=["gpu.nvidia.com"])
    allowed = {**POLICY, "device_plugin": "allow", "foreign_driver": "allow"}
    assert len(rollout.problems(host, POLICY)) == 2
    assert rollout.problems(host, allowed) == []


def test_rollout_without_any_service_is_refused() -> None:
    (problem,) = rollout.problems(a_host(), {**POLICY, "drivers": []})
    assert "nvdra_gpus and nvdra_compute_domains are both false" in problem


def test_domains_alone_may_stand_beside_the_device_plugin() -> None:
    host = a_host(device_plugin_sockets=["nvidia-gpu.sock"], foreign_sockets=[GPU])
    assert rollout.problems(host, {**POLICY, "drivers": [DOMAIN]}) == []
    running = {"nvdra-gpu-plugin.service": {"ActiveState": "active"}}
    (problem,) = rollout.problems({**host, "units": running}, {**POLICY, "drivers": [DOMAIN]})
    assert "systemctl disable --now nvdra-gpu-plugin.service" in problem


def test_foreign_driver_that_we_do_not_replace_is_no_rival() -> None:
    host = a_host(foreign_sockets=[DOMAIN])
    assert rollout.problems(host, POLICY) == []
    assert len(rollout.problems(host, {**POLICY, "drivers": [GPU, DOMAIN]})) == 1


RUNS = {"nvidia-imex.service": {"ActiveState": "active", "UnitFileState": "enabled"}}
NEXT_BOOT = {"nvidia-imex.service": {"ActiveState": "inactive", "UnitFileState": "enabled"}}
OFF = {"nvidia-imex.service": {"ActiveState": "inactive", "UnitFileState": "masked"}}


@pytest.mark.parametrize(
    ("units", "mode", "vendor", "word"),
    [
        ({}, "driverManaged", "keep", ""),
        (OFF, "driverManaged", "keep", ""),
        (RUNS, "driverManaged", "keep", "nvdra_vendor_imex=disable"),
        (NEXT_BOOT, "driverManaged", "keep", "nvdra_vendor_imex=disable"),
        (RUNS, "driverManaged", "enable", "nvdra_vendor_imex=disable"),
        (RUNS, "driverManaged", "disable", ""),
        (RUNS, "hostManaged", "keep", ""),
        (OFF, "hostManaged", "keep", "nvdra_vendor_imex=enable"),
        (OFF, "hostManaged", "enable", ""),
        (RUNS, "hostManaged", "disable", "would stop"),
    ],
)
def test_two_imex_units_are_a_named_problem(
    units: dict[str, Any], mode: str, vendor: str, word: str
) -> None:
    policy = {**POLICY, "drivers": [GPU, DOMAIN], "imex_mode": mode, "vendor_imex": vendor}
    found = rollout.problems(a_host(units=units), policy)
    assert [word in problem for problem in found] == ([True] if word else [])
    assert rollout.problems(a_host(units=units), POLICY) == [], (
        "without ComputeDomains it is left alone"
    )


def test_upgrade_of_a_host_without_the_package_is_refused() -> None:
    policy = {**POLICY, "require_installed": True}
    assert "not installed" in rollout.problems(a_host(), policy)[0]
    assert rollout.problems(a_host(package_version="0.1.0"), policy) == []


FILES = [
    "/p/nvdra_0.1.0_amd64.deb",
    "/p/nvdra_0.1.0_arm64.deb",
    "/p/nvdra-0.1.0-1.x86_64.rpm",
    "/p/nvdra-0.1.0-1.aarch64.rpm",
]


@pytest.mark.parametrize(
    ("form", "machine", "path"),
    [
        ("deb", "x86_64", FILES[0]),
        ("deb", "aarch64", FILES[1]),
        ("rpm", "x86_64", FILES[2]),
        ("rpm", "aarch64", FILES[3]),
    ],
)
def test_package_is_that_of_the_host_s_kind(form: str, machine: str, path: str) -> None:
    chosen = rollout.package(a_host(package_format=form, machine=machine), FILES)
    assert (chosen["version"], chosen["copy_from"]) == ("0.1.0", path)


def test_several_package_versions_need_a_choice() -> None:
    files = [FILES[1], "/p/nvdra_0.2.0_arm64.deb"]
    with pytest.raises(rollout.RolloutError, match=r"0\.1\.0, 0\.2\.0.*nvdra_version"):
        rollout.package(a_host(), files)
    assert rollout.package(a_host(), files, "0.2.0")["copy_from"] == files[1]


def test_way_back_uses_the_file_that_the_host_kept() -> None:
    host = a_host(package_version="0.2.0", cached_packages=["nvdra_0.1.0_arm64.deb"])
    chosen = rollout.package(host, [], "0.1.0")
    assert (chosen["name"], chosen["copy_from"], chosen["repository"]) == (
        "nvdra_0.1.0_arm64.deb",
        "",
        "",
    )


@pytest.mark.parametrize(("form", "wanted"), [("deb", "nvdra=0.1.0"), ("rpm", "nvdra-0.1.0")])
def test_missing_file_falls_back_to_repositories(form: str, wanted: str) -> None:
    assert rollout.package(a_host(package_format=form), [], "0.1.0")["repository"] == wanted


def test_no_requested_version_keeps_installed_one() -> None:
    assert rollout.package(a_host(package_version="0.1.0"), [])["version"] == "0.1.0"
    with pytest.raises(rollout.RolloutError, match="no package"):
        rollout.package(a_host(), [])


CHECKED = {"check_signature": True, "signing_key": ""}


def problems_of_package(host: dict[str, Any], files: list[str], version: str = "") -> Any:
    return rollout.package_problems(host, files, version, CHECKED)


def test_upgrade_without_old_package_is_refused() -> None:
    host = a_host(package_version="0.1.0")
    (problem,) = problems_of_package(host, ["/p/nvdra_0.2.0_arm64.deb"])
    assert "nvdra 0.1.0 is installed, and no deb of it is at hand" in problem
    assert "nvdra_version=0.2.0" in problem


@pytest.mark.parametrize(
    ("change", "files"),
    [
        ({"cached_packages": ["nvdra_0.1.0_arm64.deb"]}, []),
        ({"is_in_repository": True}, []),
        ({}, ["/p/nvdra_0.1.0_arm64.deb"]),
    ],
    ids=["cached", "repository", "directory"],
)
def test_upgrade_with_rollback_package_passes(change: dict[str, Any], files: list[str]) -> None:
    host = a_host(package_version="0.1.0", **change)
    assert problems_of_package(host, [*files, "/p/nvdra_0.2.0_arm64.deb"], "0.2.0") == []


def test_way_back_is_the_file_beside_the_new_one() -> None:
    files = ["/p/nvdra_0.1.0_arm64.deb", "/p/nvdra_0.2.0_arm64.deb"]
    back = rollout.way_back(a_host(package_version="0.1.0"), files)
    assert (back["name"], back["copy_from"]) == ("nvdra_0.1.0_arm64.deb", files[0])


def test_first_installation_needs_no_rollback_package() -> None:
    files = ["/p/nvdra_0.2.0_arm64.deb"]
    assert problems_of_package(a_host(), files) == []
    assert problems_of_package(a_host(package_version="0.2.0"), files) == []


def test_unidentified_package_is_reported_in_preflight() -> None:
    assert "no package" in problems_of_package(a_host(), [])[0]


def test_unsigned_rpm_is_refused_where_signatures_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "nvdra-0.2.0-1.aarch64.rpm"
    path.write_bytes(b"\xed\xab\xee\xdb" + bytes(92) + b"\x8e\xad\xe8\x01" + bytes(12))
    host = a_host(package_format="rpm")
    (problem,) = rollout.package_problems(host, [str(path)], "", CHECKED)
    assert "is not signed" in problem
    assert "NVDRA_SIGN_KEY" in problem
    unchecked = {**CHECKED, "check_signature": False}
    assert rollout.package_problems(host, [str(path)], "", unchecked) == []


def test_newest_settings_backup_is_kept_and_no_credentials() -> None:
    paths = ["/e/config.yaml.1~", "/e/kubeconfig.1~", "/e/config.yaml.2~", "/e/kubeconfig.2~"]
    assert rollout.stale_backups(paths) == [paths[0], paths[1], paths[3]]
    assert rollout.stale_backups([]) == []


def test_peers_are_the_other_hosts_of_the_rack() -> None:
    racks = {**rack("r1", 2), **rack("r2", 2)}
    hostvars = {host: {"nvdra_node": {"address": f"10.0.0.{n}"}} for n, host in enumerate(racks)}
    hostvars["r1-02"] = {}
    same = rollout.same_rack(list(racks), "r2-01", racks)
    assert rollout.addresses(same, hostvars, "r2-01") == {"r2-02": "10.0.0.3"}
    assert rollout.addresses(["r1-01", "r1-02"], hostvars, "r1-01") == {}


def test_hosts_with_active_unit_are_listed() -> None:
    states = {"a": "active", "b": "inactive"}
    hostvars = {
        host: {"nvdra_node": {"units": {"u": {"ActiveState": state}}}}
        for host, state in states.items()
    }
    assert rollout.with_active(["a", "b", "c"], {**hostvars, "c": {}}, "u") == ["a"]


TOKEN = {"account": "a/b", "node_uid": "u", "issued_at_s": 1000, "expires_at_s": 3000}


@pytest.mark.parametrize(
    ("facts", "account", "uid", "now_s", "expected"),
    [
        ({}, "a/b", "u", 1000, True),
        (TOKEN, "a/b", "u", 1000, False),
        (TOKEN, "a/b", "u", 1999, False),
        (TOKEN, "a/b", "u", 2000, True),
        (TOKEN, "a/b", "u", 9000, True),
        (TOKEN, "a/c", "u", 1000, True),
        (TOKEN, "a/b", "v", 1000, True),
    ],
)
def test_token_is_created_unless_node_renews_its_own(
    facts: dict[str, Any], account: str, uid: str, now_s: float, expected: bool
) -> None:
    assert rollout.token_is_wanting(facts, account, uid, now_s) is expected
