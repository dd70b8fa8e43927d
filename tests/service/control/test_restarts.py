"""What the controller knows too late, or has forgotten: restarts of every replica, and watches that are behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nvdra_cluster.control.controller import RECHECK_S
from nvdra_cluster.control.event_correlator import REPEAT_S
from nvdra_cluster.control.released_numbers import NAME, OLD_S
from nvdra_cluster.control.state.heartbeats import GRACE_S, SILENCE_S, format_time
from nvdra_cluster.decide.number_allocator import NUMBER_REUSE_DELAY_S
from nvdra_cluster.decide.writes import CONFIG_MAPS, DOMAINS
from tests.beds.services.controller_rack import NAMESPACE, TEAM, Rack, Tray
from tests.fakes.apiserver.faults import Fault
from tests.lib.waits import wait_until
from tests.service.control.test_failures import a_member


@pytest.fixture
def rack() -> Iterator[Rack]:
    with Rack() as made:
        made.start()
        yield made


def test_f7_slot_reuse_delay_survives_restarts(rack: Rack):
    a_member(rack, "a")
    stays = a_member(rack, "bb")
    stays.wait_for(lambda spec: len(spec.get("slots") or ()) == 2)
    rack.remove_node("a")
    rack.unclaim("a")
    spec = stays.wait_for(lambda spec: spec["slots"][0]["address"] == "")
    assert spec["slots"][0]["nodeName"] == "a", "known, but not to be found any more"
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


def test_events_of_node_that_comes_and_goes_are_counted(rack: Rack):
    tray = a_member(rack)

    def event_counts() -> dict[str, int]:
        events = rack.server.objects("events", "")
        assert len({event["reason"] for event in events}) == len(events), "one of each kind"
        return {event["reason"]: event["count"] for event in events}

    def wait_for(reason: str, count: int) -> None:
        wait_until(f"{reason} {count} times", lambda: event_counts().get(reason) == count)

    for number in range(1, 4):
        wait_for("AllNodesReady", number)
        rack.advance(60.0)
        wait_for("NodeLost", number)
        tray.report()
    wait_for("AllNodesReady", 4)
    rack.advance(REPEAT_S)
    wait_until("long ago, so created again", lambda: len(rack.server.objects("events", "")) == 3)


def test_report_that_our_watch_has_missed_keeps_domain(rack: Rack):
    """Its pod was deleted by force: the claim is deleted, and the node still has it prepared."""
    tray = rack.tray("a")
    uid = rack.create_domain()["metadata"]["uid"]
    rack.claim("a")
    tray.report()
    tray.wait_for(lambda spec: bool(spec.get("domains")))
    rack.settle()
    rack.server.api.faults.add(Fault(verb="watch", resource="fabricnodes", count=0))
    controller = rack.replicas[0].manager
    next(r for r in controller.reflectors if r.name == "fabricnodes").reflector.stop()
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
        rack.settle()
        rack.advance(60.0)
        wait_until("lost", lambda: rack.condition("Degraded").get("reason") == "NodeLost")
        wait_until("recorded", lambda: rack.spec("a").get("lostHeartbeat"))
        rack.settle()
        return tray

    def test_node_lost_stays_lost_over_restart(self, rack: Rack, lost: Tray):
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

    def test_lost_node_stays_lost_during_api_outage(self, rack: Rack, lost: Tray):
        rack.stop_controllers()
        asks = Fault(verb="get", resource="fabricnodes", code=500, count=0)
        rack.server.api.faults.add(asks)
        rack.start()
        rack.settle()
        assert rack.replicas[0].manager.cache.lost == {"a"}
        rack.server.api.faults.clear()

    def test_node_that_came_back_meanwhile_is_ready_at_once(self, rack: Rack, lost: Tray):
        rack.stop_controllers()
        lost.report()
        rack.start()
        wait_until("ready", lambda: rack.status().get("status") == "Ready")

    def test_silence_goes_on_over_restart(self, rack: Rack):
        tray = a_member(rack)
        tray.report(heartbeatTime=format_time(rack.clock.wall()))
        rack.settle()
        rack.advance(SILENCE_S - 3.0)
        rack.stop_controllers()
        rack.start()
        rack.settle()
        assert rack.replicas[0].manager.cache.lost == set()
        rack.advance(GRACE_S + 1.0)
        rack.replicas[0].go_round()
        assert rack.replicas[0].manager.cache.lost == {"a"}, "not after 33 s more"


def test_new_leader_treats_lost_node_as_lost():
    with Rack(is_elected=True) as rack:
        wait_until("one leads", rack.start("one").manager.is_leading)
        a_member(rack)
        rack.advance(60.0)
        wait_until("lost", lambda: rack.condition("Degraded").get("reason") == "NodeLost")
        wait_until("recorded", lambda: rack.spec("a").get("lostHeartbeat"))
        two = rack.start("two")
        rack.replicas.pop(0).stop()
        wait_until("two leads", two.manager.is_leading)
        for _ in range(3):
            two.go_round()
        assert rack.condition("Degraded")["reason"] == "NodeLost"
        assert "AllNodesReady" not in [
            event["reason"] for event in rack.server.objects("events", "") if event["count"] > 1
        ]


class TestReleasedPorts:
    """Some node may still run with the port of a domain that went a moment ago."""

    def port(self, rack: Rack, name: str) -> int:
        wait_until("served", lambda: rack.status(name).get("assignment"))
        found: int = rack.status(name)["assignment"]["port"]
        return found

    def release(self, rack: Rack) -> None:
        """A domain comes and goes."""
        rack.create_domain()
        assert self.port(rack, "train") == 24001
        rack.client.delete(DOMAINS, "train", namespace=TEAM)
        wait_until("deleted", lambda: rack.find(DOMAINS, "train", TEAM) is None)
        rack.settle()

    def test_port_reuse_delay_survives_restarts(self, rack: Rack):
        self.release(rack)
        rack.stop_controllers()
        rack.start()
        rack.create_domain("soon")
        assert self.port(rack, "soon") == 24002
        rack.advance(NUMBER_REUSE_DELAY_S + 1.0)
        rack.create_domain("later")
        assert self.port(rack, "later") == 24001

    def test_port_of_domain_without_finalizer_has_reuse_delay(self, rack: Rack):
        rack.create_domain()
        assert self.port(rack, "train") == 24001
        rack.settle()
        domain = {"name": "train", "namespace": TEAM, "finalizers": None}
        rack.client.merge_patch(DOMAINS, {"metadata": domain})
        rack.client.delete(DOMAINS, "train", namespace=TEAM)
        rack.settle()
        rack.stop_controllers()
        rack.start()
        rack.create_domain("soon")
        assert self.port(rack, "soon") == 24002

    def test_restarted_controller_continues_deletion(self, rack: Rack):
        """The controller ended between the two writes."""
        rack.create_domain()
        assert self.port(rack, "train") == 24001
        fails = Fault(verb="patch", resource="computedomains", code=500, count=0)
        rack.server.api.faults.add(fails)
        rack.client.delete(DOMAINS, "train", namespace=TEAM)
        wait_until("recorded", lambda: (rack.find(CONFIG_MAPS, NAME, NAMESPACE) or {}).get("data"))
        rack.stop_controllers()
        rack.server.api.faults.clear()
        rack.start()
        rack.create_domain("other")
        assert self.port(rack, "other") == 24002
        wait_until("deleted", lambda: rack.find(DOMAINS, "train", TEAM) is None)

    def test_unreadable_record_delays_port_assignment(self, rack: Rack):
        self.release(rack)
        rack.stop_controllers()
        rack.server.api.faults.add(Fault(verb="get", resource="configmaps", code=403, count=0))
        rack.start()
        rack.create_domain("soon")
        wait_until("refused", lambda: rack.condition("Accepted", "soon").get("status") == "False")
        assert "released recently" in rack.condition("Accepted", "soon")["message"]
        rack.advance(NUMBER_REUSE_DELAY_S + RECHECK_S)
        assert self.port(rack, "soon") == 24001

    @pytest.mark.parametrize("code", [403, 404])
    def test_record_refused_holds_no_deletion(self, rack: Rack, code: int):
        rack.server.api.faults.add(Fault(verb="patch", resource="configmaps", code=code, count=0))
        self.release(rack)
        rack.create_domain("soon")
        assert self.port(rack, "soon") == 24002, "this process knows it"

    def test_deleted_record_is_recreated(self, rack: Rack):
        self.release(rack)
        rack.client.delete(CONFIG_MAPS, NAME, namespace=NAMESPACE)
        for name in ("second", "third"):
            rack.create_domain(name)
            self.port(rack, name)
            rack.client.delete(DOMAINS, name, namespace=TEAM)
            rack.settle()
        found = rack.find(CONFIG_MAPS, NAME, NAMESPACE)
        assert found is not None
        assert "port-24003" in found["data"]

    def test_record_drops_expired_entries(self, rack: Rack):
        self.release(rack)
        rack.advance(OLD_S + 1.0)
        rack.create_domain("second")
        rack.create_domain("third")
        self.port(rack, "third")
        rack.client.delete(DOMAINS, "third", namespace=TEAM)
        wait_until("deleted", lambda: rack.find(DOMAINS, "third", TEAM) is None)
        found = rack.find(CONFIG_MAPS, NAME, NAMESPACE)
        assert found is not None
        assert len(found["data"]) == 1
