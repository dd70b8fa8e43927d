"""The services of a node as processes: claims, channels and nvidia-imex."""

from __future__ import annotations

from functools import partial

import pytest

from tests.beds.services.tray_rack import DRIVER
from tests.lib.waits import wait_until

pytestmark = [pytest.mark.sim, pytest.mark.timeout(300)]


def peers_of(tray, wanted):
    return [d["peersConnected"] for d in tray.status().get("domains", [])] == wanted


def test_claim_gets_its_channel_once_imex_is_ready(rack):
    [tray] = rack.trays
    uid = rack.domain("a", channel=3)
    rack.claim("c1", tray, uid)
    answer = tray.prepare("c1")
    assert answer.errors == {}
    [device] = answer.devices[rack.uids["c1"]]
    assert (device.device, device.pool, device.requests) == ("channel-0", tray.name, ["channel"])
    assert device.cdi_ids == [f"k8s.compute-domain.nvidia.com/claim={rack.uids['c1']}-channel-0"]
    spec = tray.cdi_spec("c1")
    [node] = spec["devices"][0]["containerEdits"]["deviceNodes"]
    assert node["path"] == "/dev/nvidia-caps-imex-channels/channel3"
    assert (node["major"], node["minor"], node["fileMode"]) == (237, 3, 0o666)
    assert spec["containerEdits"] == {}
    assert tray.imex()["session"]["held"]


def test_node_publishes_one_channel_with_its_clique(rack):
    [tray] = rack.trays
    [device] = wait_until("a device is published", lambda: rack.devices(tray))
    fabric = tray.root.profile.fabric
    assert device["name"] == "channel-0"
    assert device["attributes"] == {
        "type": {"string": "channel"},
        "id": {"int": 0},
        "cliqueID": {"string": f"{fabric.cluster_uuid}.{fabric.clique_id}"},
        "clusterUUID": {"string": fabric.cluster_uuid},
    }


def test_status_has_node_imex_and_claims(rack):
    [tray] = rack.trays
    uid = rack.domain("a")
    rack.claim("c1", tray, uid)
    tray.prepare("c1")
    status = wait_until("domains", lambda: tray.status() if tray.status().get("domains") else None)
    status = wait_until(
        "ready", lambda: tray.status() if tray.status()["domains"][0]["ready"] else None
    )
    assert status["fabricState"] == "Completed" and status["addresses"] == [tray.address]
    assert status["channelCount"] == 2048 and status["imexVersion"]
    run = status["imex"]["incarnation"]
    assert (run["slot"], run["domainUID"], run["bootID"]) == (0, uid, status["bootID"])
    [domain] = status["domains"]
    assert domain["claims"] == [{"namespace": "ns", "name": "c1", "uid": rack.uids["c1"]}]
    assert (domain["uid"], domain["ready"]) == (uid, True)
    before = status["heartbeatTime"]
    wait_until("a heartbeat", lambda: tray.status()["heartbeatTime"] != before)


def test_imex_stops_gracefully_after_the_last_claim(rack):
    [tray] = rack.trays
    rack.claim("c1", tray, rack.domain("a"))
    tray.prepare("c1")
    assert tray.unprepare("c1").errors == {}
    assert tray.cdi_spec("c1") is None
    wait_until("nvidia-imex ends", lambda: tray.imex()["ActiveState"] == "inactive")
    assert tray.imex()["session"]["allocations"] is True
    wait_until("the status forgets the claim", lambda: not tray.status().get("domains"))


def test_waiting_claim_gets_the_reason(rack):
    [tray] = rack.trays
    rack.claim("c1", tray, "domain-nowhere")
    tray.wait_for_error("c1", "WaitingForDomain", "domain-nowhere")
    reported = wait_until("the report", lambda: tray.status().get("domains"))
    assert (reported[0]["uid"], reported[0]["ready"]) == ("domain-nowhere", False)
    assert tray.unprepare("c1").errors == {}


def test_waiting_claim_continues_with_the_spec(rack):
    [tray] = rack.trays
    rack.claim("c1", tray, "domain-a")
    tray.wait_for_error("c1", "WaitingForDomain")
    rack.domain("a")
    assert tray.prepare("c1").errors == {}


def test_claim_of_another_tenant_is_refused(rack):
    [tray] = rack.trays
    uid = rack.domain("a", namespace="other")
    rack.claim("c1", tray, uid)
    error = tray.prepare("c1").errors[rack.uids["c1"]]
    assert "namespace other" in error
    assert tray.imex()["ActiveState"] == "inactive"
    assert tray.unprepare("c1").errors == {}


def test_mode_all_gives_every_channel(rack):
    [tray] = rack.trays
    rack.claim("c1", tray, rack.domain("a"), mode="All")
    assert tray.prepare("c1").errors == {}
    nodes = tray.cdi_spec("c1")["devices"][0]["containerEdits"]["deviceNodes"]
    assert [node["minor"] for node in nodes] == list(range(2048))


def test_unknown_config_value_is_refused_by_name(rack):
    [tray] = rack.trays
    rack.claim("c1", tray, rack.domain("a"), mode="Sometimes")
    assert "Sometimes" in tray.prepare("c1").errors[rack.uids["c1"]]


def test_node_without_fabric_prepares_without_channel(make_rack):
    made = make_rack(1, "l4x2")
    [tray] = made.trays
    tray.start()
    tray.register()
    made.claim("c1", tray, made.domain("a"))
    answer = tray.prepare("c1")
    assert answer.errors == {} and answer.devices[made.uids["c1"]][0].cdi_ids == []
    assert tray.imex()["ActiveState"] == "inactive"
    [device] = wait_until("a device is published", lambda: made.devices(tray))
    assert set(device["attributes"]) == {"type", "id"}


def test_withdraw_removes_the_channel(rack):
    [tray] = rack.trays
    wait_until("a slice", lambda: rack.slices(tray))
    for service in list(tray.services):
        tray.stop(service)
    tray.start("withdraw")
    assert tray.services.pop("withdraw").wait(60) == 0
    assert rack.slices(tray) == []


def test_two_nodes_of_a_domain_connect(make_rack):
    made = make_rack(2)
    uid = made.domain("a")
    for tray in made.trays:
        tray.start()
    for tray in made.trays:
        tray.register()
        made.claim(f"c{tray.index}", tray, uid)
        assert tray.prepare(f"c{tray.index}").errors == {}
    for tray in made.trays:
        wait_until(f"{tray.name} is connected", partial(peers_of, tray, [1]))
    wait_until(
        "no reasons",
        lambda: {d["reason"] for tray in made.trays for d in tray.status()["domains"]} == {""},
    )
    assert DRIVER in made.trays[0].kubelet.wait_for_socket(DRIVER).name
