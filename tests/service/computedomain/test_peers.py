"""Peers that connect or refuse each other, with services and simulated nvidia-imex as processes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.beds.services.tray_rack import Rack, Tray
from tests.lib.waits import wait_until
from tests.sim.imex import install

pytestmark = [pytest.mark.sim, pytest.mark.timeout(300)]


def domain_of(tray: Tray) -> dict[str, Any]:
    domains = tray.status().get("domains") or [{}]
    return dict(domains[0])


def form(rack: Rack, uid: str) -> None:
    for tray in rack.trays:
        tray.start()
    for tray in rack.trays:
        tray.register()
        rack.claim(f"c{tray.index}", tray, uid)
        assert tray.prepare(f"c{tray.index}").errors == {}


def test_connected_peers_are_reported_before_the_heartbeat(make_rack):
    rack = make_rack(2)
    rack.heartbeat_s = 600
    form(rack, rack.domain("a"))
    wait_until("", lambda: [domain_of(t).get("peersConnected") for t in rack.trays] == [1, 1], 30)


def test_version_mismatch_names_both_versions(make_rack):
    rack = make_rack(2)
    first, second = rack.trays
    install.configure(first.root.path, version="570.124.06")
    install.configure(second.root.path, version="580.65.06")
    form(rack, rack.domain("a"))
    found = wait_until(
        "", lambda: domain_of(second).get("reason") == "ImexVersionMismatch" and domain_of(second)
    )
    assert found["peers"] == [{"slot": 0, "problem": "VersionMismatch", "version": "570.124.06"}]
    assert "580.65.06" in found["message"] and "570.124.06" in found["message"]
    assert (found["ready"], found["peersConnected"]) == (True, 0)


def test_node_map_mismatch_names_the_peer(make_rack):
    rack = make_rack(2)
    first, second = rack.trays
    uid = rack.domain("a", slotCount=4)
    first.start()
    first.register()
    rack.claim("c0", first, uid)
    assert first.prepare("c0").errors == {}
    rack.domain("a", slotCount=8)
    second.start()
    second.register()
    rack.claim("c1", second, uid)
    assert second.prepare("c1").errors == {}
    found = wait_until(
        "", lambda: domain_of(second).get("reason") == "NodeMapMismatch" and domain_of(second)
    )
    assert f"slot 0 ({first.address}, {first.name})" in found["message"]
    counts = [tray.status()["imex"]["incarnation"]["slotCount"] for tray in rack.trays]
    assert counts == [4, 8]


def test_supervisor_restart_revokes_no_ready_peer(make_rack):
    """Otherwise each upgrade would make the domain NotReady for a moment."""
    rack = make_rack(2)
    form(rack, rack.domain("a"))
    wait_until("", lambda: [domain_of(t).get("peersConnected") for t in rack.trays] == [1, 1], 30)
    tray = rack.trays[0]
    before = tray.status()["heartbeatTime"]
    for _ in range(2):
        tray.stop("imex-supervisor")
        tray.start("imex-supervisor")
        seen: list[tuple[object, ...]] = []
        while len({heartbeat for heartbeat, *_ in seen} - {before}) < 2:
            found = tray.status()
            domain = (found.get("domains") or [{}])[0]
            seen.append((found["heartbeatTime"], domain.get("ready"), domain.get("peersConnected")))
            time.sleep(0.02)
        assert {(ready, peers) for _, ready, peers in seen} == {(True, 1)}
        before = tray.status()["heartbeatTime"]
