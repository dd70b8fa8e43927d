"""Faults of a node with its services as processes."""

from __future__ import annotations

import shutil
import signal
import time

import pytest

from tests.lib.waits import wait_until
from tests.sim.imex import install

pytestmark = [pytest.mark.sim, pytest.mark.timeout(300)]


def test_service_restarts_leave_imex_and_claims_alone(rack):
    [tray] = rack.trays
    rack.claim("c1", tray, rack.domain("a"))
    assert tray.prepare("c1").errors == {}
    before = tray.imex()["InvocationID"], tray.imex()["pid"]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for service in ("imex-supervisor", "compute-domain"):
            tray.stop(service, number)
        tray.start()
        tray.register()
        assert tray.prepare("c1").errors == {}
        assert (tray.imex()["InvocationID"], tray.imex()["pid"]) == before
    assert tray.imex()["session"]["sessions"] == 1


def test_imex_died_under_a_claim_is_restarted_and_counted(rack):
    [tray] = rack.trays
    rack.claim("c1", tray, rack.domain("a"))
    tray.prepare("c1")
    first = tray.imex()["InvocationID"]
    tray.kill_imex()
    wait_until("another start", lambda: tray.imex()["InvocationID"] != first)
    wait_until("a new session", lambda: tray.imex()["session"].get("abrupt") == 1)
    assert tray.prepare("c1").errors == {}
    status = wait_until(
        "the count of restarts",
        lambda: tray.status() if tray.status()["imex"].get("restarts") == 1 else None,
    )
    wait_until(
        "the new incarnation",
        lambda: (
            (tray.status()["imex"].get("incarnation") or {}).get("invocationID")
            == tray.imex()["InvocationID"]
        ),
    )
    assert status["bootID"] == tray.status()["bootID"]


def test_hanging_imex_is_reported_within_seconds(rack):
    [tray] = rack.trays
    uid = rack.domain("a")
    rack.claim("c1", tray, uid)
    tray.prepare("c1")
    install.configure(tray.root.path, hang_commands=True)
    wait_until("the status says so", lambda: tray.status()["imex"]["state"] == "UNAVAILABLE")
    wait_until(
        "and of the domain", lambda: tray.status()["domains"][0]["reason"] == "ImexUnresponsive"
    )
    tray.wait_for_error("c1", "ImexUnresponsive")
    assert tray.unprepare("c1").errors == {}
    install.configure(tray.root.path, hang_commands=None)


def test_known_claims_need_no_api_server(rack):
    [tray] = rack.trays
    rack.claim("c1", tray, rack.domain("a"))
    tray.prepare("c1")
    rack.server.stop()
    tray.stop("imex-supervisor")
    tray.start("imex-supervisor")
    assert tray.prepare("c1").errors == {}
    assert tray.unprepare("c1").errors == {}
    wait_until("nvidia-imex ends", lambda: tray.imex()["ActiveState"] == "inactive")


def test_known_claims_are_prepared_after_a_reboot(rack):
    [tray] = rack.trays
    rack.claim("c1", tray, rack.domain("a"))
    tray.prepare("c1")
    boot = tray.status()["bootID"]
    for service in list(tray.services):
        tray.stop(service, signal.SIGKILL)
    tray.kill_imex()
    wait_until("nvidia-imex ends", lambda: not tray.imex()["pid"])
    tray.root.reboot()
    shutil.rmtree(tray.imex_dir)
    shutil.rmtree(tray.cdi)
    (tray.root.path / "run/nvsim/imex-session.json").unlink()
    (tray.root.path / "run/nvsim/units.json").unlink()
    tray.start()
    tray.register()
    wait_until("another boot", lambda: tray.status()["bootID"] != boot)
    status = wait_until(
        "no IMEX", lambda: tray.status() if tray.status()["imex"]["state"] == "STOPPED" else None
    )
    assert not status.get("domains")
    assert tray.imex()["ActiveState"] == "inactive"
    assert tray.prepare("c1").errors == {}
    assert tray.cdi_spec("c1") is not None
    assert tray.imex()["session"]["sessions"] == 1


def test_foreign_imex_is_named_with_a_remedy(make_rack):
    made = make_rack()
    [tray] = made.trays
    install.configure(tray.root.path, active_units=["nvidia-imex.service"])
    tray.start()
    tray.register()
    made.claim("c1", tray, made.domain("a"))
    tray.wait_for_error("c1", "systemctl disable --now nvidia-imex.service")
    assert tray.imex()["ActiveState"] == "inactive"


def test_second_domain_waits_for_release_of_the_first(rack):
    [tray] = rack.trays
    first, second = rack.domain("a"), rack.domain("b")
    rack.claim("c1", tray, first)
    rack.claim("c2", tray, second)
    assert tray.prepare("c1").errors == {}
    tray.wait_for_error("c2", "claim ns/c1")
    assert tray.unprepare("c1").errors == {}
    assert tray.prepare("c2").errors == {}
    wait_until(
        "the second domain",
        lambda: (tray.status()["imex"].get("incarnation") or {}).get("domainUID") == second,
    )
    assert tray.status()["channelCount"] == 2048


def test_pods_end_without_the_supervisor(rack):
    [tray] = rack.trays
    uid = rack.domain("a")
    rack.claim("c1", tray, uid)
    rack.claim("c2", tray, uid)
    tray.prepare("c1")
    tray.stop("imex-supervisor")
    assert tray.unprepare("c1").errors == {}
    tray.wait_for_error("c2", "nvdra-imex-supervisor.service")
    tray.start("imex-supervisor")
    assert tray.prepare("c2").errors == {}


def test_id_other_than_the_slot_is_reported(rack):
    [tray] = rack.trays
    install.configure(tray.root.path, wrong_id=3)
    rack.claim("c1", tray, rack.domain("a"))
    assert tray.prepare("c1").errors == {}
    wait_until(
        "the real id", lambda: (tray.status()["imex"].get("incarnation") or {}).get("slot") == 3
    )


def test_failed_start_is_reported_with_the_daemons_log(rack):
    [tray] = rack.trays
    install.configure(tray.root.path, exit_status=1, exit_message="cannot find the fabric")
    rack.claim("c1", tray, rack.domain("a"))
    tray.wait_for_error("c1", "ImexFailed", "cannot find the fabric")
    install.configure(tray.root.path, exit_status=None)
    assert tray.prepare("c1").errors == {}


def test_claims_wait_for_registering_gpus(make_rack):
    made = make_rack()
    [tray] = made.trays
    tray.root.set_gpu(0, fabric_state=2)
    tray.start()
    tray.register()
    made.claim("c1", tray, made.domain("a"))
    tray.wait_for_error("c1", "FabricInProgress")
    assert made.devices(tray) == []
    tray.root.set_gpu(0, fabric_state=3)
    assert tray.prepare("c1").errors == {}
    wait_until("a device is published", lambda: made.devices(tray))


def test_imex_stays_for_a_claim_with_a_damaged_record(rack):
    [tray] = rack.trays
    rack.claim("c1", tray, rack.domain("a"))
    assert tray.prepare("c1").errors == {}
    pid = tray.imex()["pid"]
    tray.stop("compute-domain")
    state = tray.home / "state/compute-domain.nvidia.com"
    (state / "claims" / f"{rack.uids['c1']}.json").write_text("{")
    tray.start("compute-domain")
    tray.register()
    wait_until("the record in quarantine", lambda: list((state / "quarantine").iterdir()))
    # Claims that two syncs, a second apart, lack are removed; the linger is a second.
    time.sleep(5)
    assert tray.imex()["pid"] == pid
    tray.unprepare("c1")
    # Another instance syncs at once, not after 30 s.
    tray.stop("compute-domain")
    tray.start("compute-domain")
    wait_until("nvidia-imex ends", lambda: not tray.imex()["pid"])
