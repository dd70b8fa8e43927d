"""The shipped units on every available systemd from 247 on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.beds.host.units import IMEX_FILES, MAY, UNIT, UNITS, not_refused, same, units
from tests.beds.host.versions import ANSWER, API_SERVER, RELEASES, VersionHost, booted
from tests.lib.waits import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

VERIFIES_RULES_FROM = 254
OFFLINE_FROM = 250
"""The first systemd-analyze that rates a file without a running manager."""


@pytest.fixture(scope="module", params=RELEASES, ids=lambda release: str(release.name))
def host(able: None, request: pytest.FixtureRequest) -> Iterator[VersionHost]:
    with booted(request.param) as made:
        print(f"{request.param.name}: {made.version}")
        yield made


def test_host_runs_the_expected_systemd_release(host: VersionHost) -> None:
    assert int(host.version.split()[1]) >= host.release.systemd


def test_systemd_verify_reports_nothing(host: VersionHost) -> None:
    assert host.verify() == ""


def test_unit_exposure_is_below_documented_limit(host: VersionHost) -> None:
    assert host.too_exposed() == {}
    if host.release.systemd >= OFFLINE_FROM:
        assert host.too_exposed("--offline=true") == {}


def test_sandbox_is_the_same_on_each_release(host: VersionHost) -> None:
    bound = host.probe(API_SERVER)
    unbound = host.probe(API_SERVER, unit=None)
    failed = {name: said for name, said in bound["allowed"].items() if said != "ok"}
    assert failed == {}
    assert set(bound["devices"].values()) == {"ENXIO"}
    assert not_refused(bound) == MAY[UNIT]
    assert same(bound, unbound) <= {"run in real time"}
    host.run(["sh", "-ec", IMEX_FILES])
    for unit, may in MAY.items():
        assert not_refused(host.probe(API_SERVER, unit)) == may, unit


def test_devices_of_late_driver_are_allowed_without_restart(host: VersionHost) -> None:
    host.unload_driver()
    host.run(["mkdir", "-p", "/dev/nvidia-caps"])
    host.systemctl("start", UNIT)
    assert answers(host) == ["EPERM"]
    host.load_driver()
    wait_until("reloaded by nvdra-driver.service", lambda: len(answers(host)) == 2, 30)
    host.systemctl("reload", UNIT)
    wait_until("reloaded", lambda: len(answers(host)) == 3, 30)
    assert answers(host)[-1] == "ok"
    assert host.show("NRestarts") == "0"
    assert len({line.split()[0] for line in lines(host)}) == 1, "one process all the while"


def test_presets_enable_the_gpus_and_nothing_else(host: VersionHost) -> None:
    names = [unit.name for unit in units() if "[Install]" in unit.read_text()]
    host.systemctl("preset", *names)
    states = {name: host.systemctl("is-enabled", name, check=False).strip() for name in names}
    enabled = {name for name, state in states.items() if state == "enabled"}
    assert enabled == {"nvdra.target", UNIT}
    host.systemctl("disable", *enabled)


def test_cdi_directory_exists_after_boot(host: VersionHost) -> None:
    host.run(["rm", "-rf", "/run/cdi"])
    host.run(["systemd-tmpfiles", "--create", "nvdra.conf"])
    assert host.run(["stat", "-c", "%a %u %g", "/run/cdi"]).stdout == "755 0 0\n"


def test_udev_wants_the_unit_once_module_is_loaded(host: VersionHost) -> None:
    # No module can be loaded here: one that the kernel has built in stands for nvidia.
    module = host.run(
        ["sh", "-c", "mkdir -p /run/sys && mount -t sysfs sys /run/sys && ls /run/sys/module"]
    )
    name = module.stdout.split()[0]
    rule = (UNITS / "71-nvdra.rules").read_text()
    host.write("/run/udev/rules.d/71-nvdra.rules", rule.replace('"nvidia"', f'"{name}"'))
    script = "mount --rbind /run/sys /sys && udevadm test --action=add /sys/module/$0"
    said = host.run(["unshare", "-m", "sh", "-c", script, name]).stdout
    assert "SYSTEMD_WANTS=nvdra-driver.service" in said
    assert "TAGS=:systemd:" in said
    if host.release.systemd >= VERIFIES_RULES_FROM:
        host.run(["udevadm", "verify", "/run/udev/rules.d/71-nvdra.rules"])


def test_stopped_process_is_replaced(host: VersionHost) -> None:
    host.systemctl("restart", UNIT)
    pid = host.show("MainPID")
    host.signal("STOP")
    wait_until("another process", lambda: host.show("MainPID") not in ("0", pid), 60)


def lines(host: VersionHost) -> list[str]:
    return host.path(ANSWER).read_text().splitlines()


def answers(host: VersionHost) -> list[str]:
    """Results of creating a capability node: at the start of the service, and at each reload."""
    return [line.split()[1] for line in lines(host)]
