"""Reports of a node that was taken over: what it says of itself must cost the others nothing."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from nvdra_cluster.control.report_verifier import NODE_BURST
from nvdra_cluster.control.state.rate_limit import STATUS_BURST
from nvdra_cluster.decide.domain.reports import UNCONFIRMED_HOLD_S
from nvdra_cluster.decide.number_allocator import NUMBER_REUSE_DELAY_S
from nvdra_cluster.decide.writes import DOMAINS, FABRIC_NODES
from nvdra_cluster.settings import FabricSettings
from nvdra_core.api import Isolation
from nvdra_core.kube.resources import CLAIMS
from tests.beds.services.controller_rack import CLIQUE, DRIVER, TEAM, Rack, Tray
from tests.fakes.apiserver.faults import Fault
from tests.lib.waits import wait_until
from tests.service.control.test_failures import a_member


@pytest.fixture
def rack() -> Iterator[Rack]:
    with Rack() as made:
        made.start()
        yield made


def held(*names: str) -> list[dict[str, Any]]:
    return [{"namespace": TEAM, "name": name, "uid": f"uid-{name}"} for name in names]


def claims_of(number: int) -> list[dict[str, Any]]:
    return held(*(f"c{index}" for index in range(number)))


def uid_of(rack: Rack, name: str) -> str:
    uid: str = rack.domain(name)["metadata"]["uid"]
    return uid


def is_gone(rack: Rack, name: str = "train") -> bool:
    return rack.find(DOMAINS, name, TEAM) is None


def threads_in(function: str) -> set[str]:
    """Names of the threads that are in a function of that name now; the controller's are in this process."""
    frames = sys._current_frames()
    return {
        thread.name
        for thread in threading.enumerate()
        if thread.ident in frames
        and any(f.f_code.co_name == function for f, _ in traceback.walk_stack(frames[thread.ident]))
    }


def a_full_report(rack: Rack, liar: Tray, domains: list[str]) -> None:
    """Every domain, each with as many claims as a status may have."""
    each = 1024 // len(domains)
    reports = [{"uid": uid_of(rack, name), "claims": claims_of(each)} for name in domains]
    liar.report(domains=reports)


def test_claim_from_pool_of_foreign_name_makes_no_member(rack: Rack):
    """A node names its pool after another node, and is allocated a claim from it."""
    rack.tray("a").report()
    victim = rack.tray("b")
    victim.report()
    rack.create_domain()
    rack.claim("b", on="a")
    rack.settle()
    assert rack.status()["nodes"] == []
    assert not rack.spec("b").get("domains")


def test_reads_caused_by_one_node_are_bounded(rack: Rack):
    liar = rack.tray("liar")
    names = [f"d{number}" for number in range(8)]
    for name in names:
        rack.create_domain(name)
    rack.settle()
    a_full_report(rack, liar, names)
    log = rack.server.api.log
    wait_until("it verifies", lambda: log.count("get", "resourceclaims") >= NODE_BURST)
    for _ in range(5):
        rack.replicas[0].go_round()
    assert log.count("get", "resourceclaims") < NODE_BURST + 20


def test_report_that_changes_all_time_holds_no_deletion(rack: Rack):
    liar = rack.tray("liar")
    names = [f"d{number}" for number in range(8)]
    for name in names:
        rack.create_domain(name)
    rack.settle()
    a_full_report(rack, liar, names)
    log = rack.server.api.log
    wait_until("its budget is spent", lambda: log.count("get", "resourceclaims") >= NODE_BURST)
    uid = uid_of(rack, "d7")
    rack.client.delete(DOMAINS, "d7", namespace=TEAM)

    def is_gone_although_it_changes() -> bool:
        claims = held(*(f"{liar.beats}-{number}" for number in range(200)))
        liar.report(domains=[{"uid": uid, "claims": claims}])
        return is_gone(rack, "d7")

    wait_until("deleted", is_gone_although_it_changes)


def test_report_flood_does_not_delay_other_nodes(rack: Rack):
    liar, honest = rack.tray("liar"), rack.tray("a")
    rack.create_domain()
    rack.create_domain("other")
    rack.settle()
    a_full_report(rack, liar, ["train", "other"])
    rack.claim("a", by_hand=True)
    honest.join()
    wait_until("ready", lambda: rack.status().get("status") == "Ready")


def test_decisions_continue_while_claim_read_hangs(rack: Rack):
    liar = rack.tray("liar")
    rack.create_domain()
    rack.settle()
    hangs = Fault(verb="get", resource="resourceclaims", action="hang", count=0)
    rack.server.api.faults.add(hangs)
    liar.report(domains=[{"uid": uid_of(rack, "train"), "claims": held("c")}])
    assert wait_until("it reads", lambda: threads_in("_confirms")) == {"verifier"}
    rack.create_domain("later")
    wait_until("accepted", lambda: rack.condition("Accepted", "later"))
    assert threads_in("_confirms") <= {"verifier"}
    assert not rack.replicas[0].manager.controller.report_verifier.is_idle()
    rack.server.api.faults.clear()


def test_claim_without_name_ends_nothing(rack: Rack):
    """To read it would be to list all claims."""
    liar = rack.tray("liar")
    rack.create_domain()
    rack.settle()
    nameless = {"namespace": TEAM, "name": "", "uid": "u"}
    odd = {"namespace": TEAM, "name": "../../secrets", "uid": "u"}
    liar.report(domains=[{"uid": uid_of(rack, "train"), "claims": [nameless, odd]}])
    rack.settle()
    rack.create_domain("later")
    wait_until("accepted", lambda: rack.condition("Accepted", "later"))
    assert rack.replicas[0].workers.failure is None
    assert rack.server.api.log.count("list", "resourceclaims") == 1, "the watch's own list"


def test_malformed_claim_stops_nothing(rack: Rack):
    liar = rack.tray("liar")
    rack.create_domain()
    opaque = {"driver": DRIVER, "parameters": ["no", "object"]}
    result = {"request": "channel", "driver": DRIVER, "pool": "liar", "device": "channel-0"}
    here = {"key": "metadata.name", "operator": "In", "values": ["liar"]}
    allocation = {
        "devices": {"results": [result], "config": [{"opaque": opaque}]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [here]}]},
    }
    rack.server.add({
        "apiVersion": CLAIMS.api_version, "kind": "ResourceClaim",
        "metadata": {"name": "odd", "namespace": TEAM}, "spec": {"devices": {}},
        "status": {"allocation": allocation},
    })  # fmt: skip
    uid = rack.client.get(CLAIMS, "odd", namespace=TEAM)["metadata"]["uid"]
    claims = [{"namespace": TEAM, "name": "odd", "uid": uid}]
    liar.report(domains=[{"uid": uid_of(rack, "train"), "claims": claims}])
    rack.settle()
    assert rack.replicas[0].workers.failure is None
    assert rack.replicas[0].manager.cache.report_states.refuted


def test_member_without_claim_holds_deletion_for_while(rack: Rack):
    """Its pod may have been deleted by force, and run on; or it was taken over, and would hold it for ever."""
    tray = a_member(rack)
    rack.unclaim("a")
    rack.client.delete(DOMAINS, "train", namespace=TEAM)
    wait_until("blocked", lambda: rack.condition("DeletionBlocked").get("status") == "True")
    rack.settle_reports()
    assert "on node a" in rack.condition("DeletionBlocked")["message"]

    step_s = 25.0
    for _ in range(int(UNCONFIRMED_HOLD_S / step_s) - 1):
        rack.advance(step_s)
        tray.report()
        rack.settle_reports()
    assert not is_gone(rack)
    for _ in range(8):
        rack.advance(step_s)
        tray.report()
        rack.settle_reports()
    wait_until("deleted", lambda: is_gone(rack))
    (event,) = (e for e in rack.server.objects("events", "") if e["reason"] == "ReportIgnored")
    assert "claim team/train-a on node a" in event["message"]
    assert rack.spec("a")["domains"][0]["deleting"], "its IMEX is left alone"
    rack.create_domain("next")
    wait_until("served", lambda: rack.status("next").get("assignment"))
    assert rack.status("next")["assignment"]["port"] == 24002, "and its port is not shared"


def test_false_report_keeps_no_port(rack: Rack):
    liar = rack.tray("liar")
    rack.create_domain()
    rack.settle()
    liar.report(domains=[{"uid": uid_of(rack, "train"), "claims": held("c")}])
    rack.client.delete(DOMAINS, "train", namespace=TEAM)
    wait_until("deleted", lambda: is_gone(rack))
    rack.settle_reports()
    rack.advance(NUMBER_REUSE_DELAY_S + 1.0)
    rack.create_domain("next")
    wait_until("served", lambda: rack.status("next").get("assignment"))
    assert rack.status("next")["assignment"]["port"] == 24001


def test_invalid_condition_reason_is_replaced(rack: Rack):
    tray = a_member(rack)
    odd = {
        "uid": uid_of(rack, "train"),
        "ready": False,
        "reason": "a b\nc",
        "claims": held("train-a"),
    }
    tray.report(domains=[odd])
    wait_until("reported", lambda: "InvalidReason" in str(rack.condition("Ready").get("message")))


def test_node_without_fabric_that_reports_one_channel_takes_none():
    with Rack(FabricSettings(isolation=Isolation.CHANNEL)) as rack:
        rack.start()
        for name, clique in (("cpu", ""), ("liar", CLIQUE)):
            rack.tray(name, clique).report(channelCount=1)
        rack.tray("a").report(channelCount=2048)
        rack.settle()
        for number in range(1, 3):
            rack.create_domain(f"d{number}")
            rack.settle()
            assert rack.status(f"d{number}")["assignment"]["channel"] == number


class TestChangesWithoutEnd:
    """A node that writes another status each moment makes decisions about all its peers due, each time."""

    def flap(self, tray: Tray, count: int) -> set[tuple[str, ...]]:
        """Report another address each time; returns those that the controller knew of."""
        cache = tray.rack.replicas[0].manager.cache
        known = set()
        for number in range(count):
            tray.report(addresses=[f"10.1.{number // 250}.{number % 250 + 1}"])
            known.add(cache.fabrics[tray.name].status.addresses)
        return known

    def test_are_taken_over_now_and_then(self, rack: Rack):
        liar, peer = rack.tray("liar"), rack.tray("a")
        peer.report()
        liar.report()
        liar.wait_for(lambda spec: len(spec.get("slots") or ()) == 2)
        rack.settle()
        began_s = time.monotonic()
        known = self.flap(liar, 5 * STATUS_BURST)
        assert len(known) <= STATUS_BURST + 2 + time.monotonic() - began_s
        last = (rack.find(FABRIC_NODES, "liar") or {})["status"]["addresses"]
        cache = rack.replicas[0].manager.cache
        wait_until("the last one counts", lambda: cache.fabrics["liar"].status.addresses == (*last,))  # fmt: skip
        peer.wait_for(lambda spec: last[0] in [slot["address"] for slot in spec["slots"]])

    def test_cost_no_honest_node_its_heartbeats(self, rack: Rack):
        liar = a_member(rack, "liar")
        self.flap(liar, STATUS_BURST + 50)
        for _ in range(4):
            rack.advance(10.0)
            liar.report()
            rack.replicas[0].go_round()
        assert rack.replicas[0].manager.cache.lost == set()

    def test_hide_no_slot_that_another_leader_gave(self, rack: Rack):
        """Own writes are applied to the cache at once."""
        liar = rack.tray("liar")
        liar.report()
        liar.wait_for(lambda spec: spec.get("slot") == 0)
        rack.settle()
        self.flap(liar, STATUS_BURST + 50)
        patch = {"metadata": {"name": "liar"}, "spec": {"slot": 5}}
        rack.client.merge_patch(FABRIC_NODES, patch)
        cache = rack.replicas[0].manager.cache
        wait_until("known", lambda: cache.fabrics["liar"].spec.slot == 5)
