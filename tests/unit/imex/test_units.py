"""Settings of the ComputeDomain services' units."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvdra_node.imex.daemon import render

UNITS = Path(__file__).parents[3] / "systemd"
SERVICES = ("nvdra-imex", "nvdra-imex-supervisor", "nvdra-compute-domain-plugin")


def unit(name: str) -> dict[str, list[str]]:
    """All values of each directive."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / f"{name}.service").read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_daemons_unit_is_never_restarted_by_systemd():
    daemon = unit("nvdra-imex")
    assert daemon["Restart"] == ["no"]
    assert not {"PartOf", "BindsTo", "Requires", "WantedBy", "Conflicts"} & daemon.keys()
    assert daemon["KillSignal"] == ["SIGTERM"] and daemon["TimeoutStopSec"] == ["30s"]
    assert daemon.get("SendSIGKILL", ["yes"]) == ["yes"]


def test_daemons_unit_uses_supervisors_files_and_no_dns():
    daemon = unit("nvdra-imex")
    assert daemon["ExecStart"] == ["/usr/bin/nvidia-imex -c /run/nvdra/imex/imexd.cfg"]
    binds = " ".join(daemon["BindReadOnlyPaths"])
    assert "/run/nvdra/imex/hosts:/etc/hosts" in binds
    assert "/run/nvdra/imex/nsswitch.conf:/etc/nsswitch.conf" in binds
    assert render.NSSWITCH.split() == [b"hosts:", b"files"]


def test_supervisors_stop_leaves_daemon_and_files():
    supervisor = unit("nvdra-imex-supervisor")
    assert supervisor["RuntimeDirectoryPreserve"] == ["yes"]
    assert not any(
        "nvdra-imex.service" in v
        for key in ("Requires", "BindsTo", "Wants")
        for v in supervisor.get(key, [])
    )


def test_plugin_has_no_privilege_and_no_device():
    plugin = unit("nvdra-compute-domain-plugin")
    assert plugin["CapabilityBoundingSet"] == ["CAP_BLOCK_SUSPEND"], "see its unit"
    assert plugin["PrivateDevices"] == ["yes"] and "DeviceAllow" not in plugin


@pytest.mark.parametrize("name", SERVICES)
def test_every_unit_is_confined(name):
    found = unit(name)
    assert found["ProtectSystem"] == ["strict"] and found["NoNewPrivileges"] == ["yes"]
    assert found["LimitCORE"] == ["0"] and found["UMask"] == ["0077"]


@pytest.mark.parametrize("name", SERVICES[1:])
def test_services_are_always_restarted(name):
    found = unit(name)
    assert found["Restart"] == ["always"] and found["Type"] == ["notify"]
    assert found["StartLimitIntervalSec"] == ["0"]


DROPPED = {
    "ProtectClock": {"CAP_SYS_TIME", "CAP_WAKE_ALARM"},
    "PrivateDevices": {"CAP_MKNOD", "CAP_SYS_RAWIO"},
    "ProtectKernelModules": {"CAP_SYS_MODULE"},
    "ProtectKernelLogs": {"CAP_SYSLOG"},
}
"""What a setting takes out of the bounding set; see systemd.exec(5)."""


def capabilities(found: dict[str, list[str]]) -> set[str]:
    """What a unit's processes have in the end."""
    kept = set(found["CapabilityBoundingSet"][0].split())
    for name, dropped in DROPPED.items():
        if found.get(name) == ["yes"]:
            kept -= dropped
    return kept


def test_no_units_capabilities_are_a_subset_of_anothers():
    """Otherwise the other could read its memory through /proc; see tests/beds/host/probe.py."""
    names = [path.stem for path in UNITS.glob("*.service")]
    sets = {name: capabilities(unit(name)) for name in names}
    assert all(sets.values())
    assert [(a, b) for a in names for b in names if a != b and sets[a] <= sets[b]] == []
