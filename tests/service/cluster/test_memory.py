"""What the controller knows too late, or has forgotten: restarts of every replica, and watches that are behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nvdra_cluster.control.eventbook import SAME_S
from nvdra_cluster.control.nodeloss import GRACE_S, SILENCE_S, format_time
from nvdra_cluster.decide.writes import DOMAINS
from nvdra_core.kube.fake.faults import Fault
from tests.service.cluster.rack import TEAM, Rack, Tray
from tests.service.cluster.replica import wait_until
from tests.service.cluster.test_failures import a_member


@pytest.fixture
def rack() -> Iterator[Rack]:
    with Rack() as made:
        made.start()
        yield made


def test_f7_its_slot_cools_on_over_a_restart_of_every_replica(rack: Rack):
    a_member(rack, "a")
    stays = a_member(rack, "bb")
    stays.wait_for(lambda spec: len(spec.get("slots") or ()) == 2)
    rack.remove_node("a")
    rack.unclaim("a")
    told = stays.wait_for(lambda spec: spec["slots"][0]["address"] == "")
    assert told["slots"][0]["nodeName"] == "a", "known, but not to be found any more"
    rack.stop_controllers()
    rack.start()
    third = rack.tray("ccc")
    third.report()
    assert third.wait_for(lambda spec: spec.get("slot") is not None)["slot"] == 2
    rack.advance(400.0)
    stays.wait_for(lambda spec: [one["index"] for one in spec["slots"]] == [1, 2])
    fourth = rack.tray("dddd")
    fourth.report()
    assert fourth.wait_for(lambda spec: spec.get("slot") is not None)["slot"] == 0


def test_events_of_a_node_that_comes_and_goes_are_counted(rack: Rack):
    tray = a_member(rack)

    def told() -> dict[str, int]:
        events = rack.server.objects("events", "")
        assert len({event["reason"] for event in events}) == len(events), "one of each kind"
        return {event["reason"]: event["count"] for event in events}

    def wait_for(reason: str, count: int) -> None:
        wait_until(f"{reason} {count} times", lambda: told().get(reason) == count)

    for number in range(1, 4):
        wait_for("AllNodesReady", number)
        rack.advance(60.0)
        wait_for("NodeLost", number)
        tray.report()
    wait_for("AllNodesReady", 4)
    rack.advance(SAME_S)
    wait_until("long ago, so made anew", lambda: len(rack.server.objects("events", "")) == 3)


def test_a_report_that_our_watch_has_missed_keeps_the_domain(rack: Rack):
    """Its pod was deleted by force: the claim is gone, and the node still has it prepared."""
    tray = rack.tray("a")
    uid = rack.create_domain()["metadata"]["uid"]
    rack.claim("a")
    tray.report()
    tray.wait_for(lambda spec: bool(spec.get("domains")))
    rack.settle()
    rack.server.api.faults.add(Fault(verb="watch", resource="fabricnodes", count=0))
    controller = rack.replicas[0].controller
    next(w for w in controller.watchings if w.name == "fabricnodes").stop()
    rack.client.delete(DOMAINS, "train", namespace=TEAM)
    wait_until("blocked", lambda: rack.condition("DeletionBlocked").get("status") == "True")
    tray.wait_for(lambda spec: spec["domains"][0]["deleting"])
    held = {"namespace": TEAM, "name": "train-a", "uid": rack.claim_uids["train-a"]}
    tray.report(domains=[{"uid": uid, "ready": True, "claims": [held]}])
    rack.unclaim("a")
    wait_until("noticed", lambda: not controller.cache.claims)
    rack.replicas[0].go_round()
    assert "on node a" in rack.condition("DeletionBlocked")["message"]
    rack.settle_reports()
    assert "on node a" in rack.condition("DeletionBlocked")["message"]


class TestLosses:
    """Ready is never said of a node that is lost, whichever replica says it."""

    @pytest.fixture
    def lost(self, rack: Rack) -> Tray:
        """A member that was found silent."""
        tray = a_member(rack)
        rack.advance(60.0)
        wait_until("lost", lambda: rack.condition("Degraded").get("reason") == "NodeLost")
        wait_until("recorded", lambda: rack.spec("a").get("lostHeartbeat"))
        rack.settle()
        return tray

    def test_node_lost_stays_lost_over_a_restart(self, rack: Rack, lost: Tray):
        before = rack.domain()
        rack.stop_controllers()
        rack.start()
        rack.settle()
        for _ in range(3):
            rack.replicas[0].go_round()
        assert rack.domain() == before, "nothing was written: it was never called ready"
        lost.report()
        wait_until("ready", lambda: rack.status().get("status") == "Ready")
        wait_until("no record", lambda: not rack.spec("a").get("lostHeartbeat"))

    def test_node_lost_stays_lost_while_the_api_server_answers_nothing(
        self, rack: Rack, lost: Tray
    ):
        rack.stop_controllers()
        asks = Fault(verb="get", resource="fabricnodes", code=500, count=0)
        rack.server.api.faults.add(asks)
        rack.start()
        rack.settle()
        assert rack.replicas[0].controller.cache.lost == {"a"}
        rack.server.api.faults.clear()

    def test_node_that_came_back_meanwhile_is_ready_at_once(self, rack: Rack, lost: Tray):
        rack.stop_controllers()
        lost.report()
        rack.start()
        wait_until("ready", lambda: rack.status().get("status") == "Ready")

    def test_silence_goes_on_over_a_restart(self, rack: Rack):
        tray = a_member(rack)
        tray.report(heartbeatTime=format_time(rack.clock.wall()))
        rack.settle()
        rack.advance(SILENCE_S - 3.0)
        rack.stop_controllers()
        rack.start()
        rack.settle()
        assert rack.replicas[0].controller.cache.lost == set()
        rack.advance(GRACE_S + 1.0)
        wait_until("lost", lambda: rack.condition("Degraded").get("reason") == "NodeLost")


def test_new_leader_calls_a_lost_node_lost_from_the_start():
    with Rack(is_elected=True) as rack:
        wait_until("one leads", rack.start("one").controller.is_leading)
        a_member(rack)
        rack.advance(60.0)
        wait_until("lost", lambda: rack.condition("Degraded").get("reason") == "NodeLost")
        wait_until("recorded", lambda: rack.spec("a").get("lostHeartbeat"))
        two = rack.start("two")
        rack.replicas.pop(0).stop()
        wait_until("two leads", two.controller.is_leading)
        for _ in range(3):
            two.go_round()
        assert rack.condition("Degraded")["reason"] == "NodeLost"
        assert "AllNodesReady" not in [
            event["reason"] for event in rack.server.objects("events", "") if event["count"] > 1
        ]
