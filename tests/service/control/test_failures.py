"""What happens when nodes, controllers or the API fail: rows of the failure table that concern the controller."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import generate_latest

from nvdra_cluster.app import MAX_SILENCE_S
from nvdra_cluster.decide.writes import DOMAINS, FABRIC_NODES
from nvdra_core.kube.resources import LEASES, NODES
from tests.beds.services.controller_rack import EAGER_LEASE, NAMESPACE, TEAM, Rack, Tray
from tests.fakes.apiserver.faults import Fault
from tests.lib.waits import wait_until


@pytest.fixture
def rack() -> Iterator[Rack]:
    with Rack() as made:
        made.start()
        yield made


def a_member(rack: Rack, name: str = "a") -> Tray:
    """A tray that is ready in the domain ``train``."""
    tray = rack.tray(name)
    if rack.find(DOMAINS, "train", TEAM) is None:
        rack.create_domain()
    rack.claim(name)
    tray.join()
    wait_until("ready", lambda: state_of(rack, name) == "Ready")
    return tray


def state_of(rack: Rack, name: str) -> str:
    nodes = rack.status().get("nodes") or ()
    return next((str(node["status"]) for node in nodes if node["name"] == name), "")


class TestNodes:
    def test_f1_reboot_invalidates_readiness(self, rack: Rack):
        tray = a_member(rack)
        tray.boot = "boot-2"
        tray.report(imex={"state": "STOPPED"})
        wait_until("not ready", lambda: state_of(rack, "a") == "NotReady")
        assert "StaleReport" in rack.condition("Ready")["message"]
        assert rack.spec("a")["slot"] == tray.running
        tray.report()
        wait_until("ready again", lambda: state_of(rack, "a") == "Ready")

    def test_f5_crash_of_imex_shows_with_its_cause(self, rack: Rack):
        tray = a_member(rack)
        uid = rack.domain()["metadata"]["uid"]
        held = {"namespace": TEAM, "name": "train-a", "uid": "c"}
        crashed = {"uid": uid, "ready": False, "reason": "ImexFailed", "message": "killed by signal 6", "claims": [held]}  # fmt: skip
        tray.report(domains=[crashed])
        wait_until("not ready", lambda: state_of(rack, "a") == "NotReady")
        degraded = rack.condition("Degraded")  # written with the node's state
        assert (degraded["status"], degraded["reason"]) == ("True", "ImexFailed")
        assert "killed by signal 6" in degraded["message"]

    def test_f7_lost_node_keeps_its_slot_and_may_return(self, rack: Rack):
        lost, well = a_member(rack, "a"), a_member(rack, "bb")
        slot = rack.spec("a")["slot"]
        for _ in range(4):
            rack.advance(10.0)
            well.report()
            wait_until("the heartbeat is seen", lambda: seen(rack, well))
        wait_until("lost", lambda: state_of(rack, "a") == "NotReady")
        assert state_of(rack, "bb") == "Ready"
        assert rack.condition("Degraded")["reason"] == "NodeLost"
        assert rack.spec("a")["slot"] == slot
        lost.report()
        wait_until("back", lambda: state_of(rack, "a") == "Ready")
        assert rack.condition("Degraded")["status"] == "False"

    def test_f7_stuck_watch_is_not_a_node_loss(self, rack: Rack):
        tray = a_member(rack)
        controller = rack.replicas[0].manager
        rack.server.api.faults.add(Fault(verb="watch", resource="fabricnodes", count=0))
        next(r for r in controller.reflectors if r.name == "fabricnodes").reflector.stop()
        tray.report()
        rack.advance(60.0)
        rack.replicas[0].go_round()
        assert controller.cache.lost == set()

    def test_f7_deleted_object_does_not_hide_other_losses(self, rack: Rack):
        """Its end was missed: a watch of ours hangs."""
        a_member(rack, "a")
        a_member(rack, "bb")
        controller = rack.replicas[0].manager
        rack.server.api.faults.add(Fault(verb="watch", resource="fabricnodes", count=0))
        next(r for r in controller.reflectors if r.name == "fabricnodes").reflector.stop()
        rack.client.delete(FABRIC_NODES, "a")
        rack.advance(60.0)
        wait_until("the other is noticed", lambda: controller.cache.lost == {"bb"})

    def test_f7_idle_node_is_not_lost_at_its_first_domain(self, rack: Rack):
        """Idle nodes are asked for a heartbeat a minute."""
        tray = rack.tray("a")
        tray.report()
        rack.create_domain()
        wait_until("template", rack.template)
        rack.settle()
        rack.advance(50.0)
        rack.claim("a")
        tray.wait_for(lambda spec: bool(spec.get("domains")))
        rack.settle()
        rack.replicas[0].go_round()
        rack.advance(2.0)
        rack.replicas[0].go_round()
        assert rack.replicas[0].manager.cache.lost == set()
        rack.advance(40.0)
        wait_until("lost", lambda: rack.replicas[0].manager.cache.lost == {"a"})

    def test_f7_deleted_node_frees_its_slot_after_reuse_delay(self, rack: Rack):
        a_member(rack, "a")
        rack.remove_node("a")
        rack.unclaim("a")
        wait_until("deleted", lambda: rack.status()["nodes"] == [])
        second = rack.tray("bb")
        second.report()
        assert second.wait_for(lambda spec: spec.get("slot") is not None)["slot"] == 1
        wait_until(
            "the slot is reserved", lambda: "a" in rack.replicas[0].manager.cache.reuse_delays
        )
        rack.advance(400.0)
        third = rack.tray("ccc")
        third.report()
        assert third.wait_for(lambda spec: spec.get("slot") is not None)["slot"] == 0

    def test_node_out_of_service_does_not_block_deletion(self, rack: Rack):
        a_member(rack)
        rack.unclaim("a")
        rack.client.delete(DOMAINS, "train", namespace=TEAM)
        wait_until("blocked", lambda: rack.condition("DeletionBlocked").get("status") == "True")
        taint = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}  # fmt: skip
        rack.client.merge_patch(NODES, {"metadata": {"name": "a"}, "spec": {"taints": [taint]}})
        wait_until("deleted", lambda: rack.find(DOMAINS, "train", TEAM) is None)

    def test_f19_node_that_serves_another_domain_says_which(self, rack: Rack):
        tray = a_member(rack)
        first = rack.domain()["metadata"]["uid"]
        second = rack.create_domain("second")["metadata"]["uid"]
        rack.claim("a", "second")
        held = {"namespace": TEAM, "name": "second-a", "uid": "c2"}
        waiting = {"uid": second, "ready": False, "reason": "OtherDomainActive", "message": f"runs {first}", "claims": [held]}  # fmt: skip
        tray.report(
            domains=[{"uid": first, "ready": True, "claims": [{**held, "uid": "c1"}]}, waiting]
        )
        wait_until(
            "reported", lambda: first in str(rack.condition("Ready", "second").get("message"))
        )
        assert state_of(rack, "a") == "Ready"


def seen(rack: Rack, tray: Tray) -> bool:
    view = rack.replicas[0].manager.cache.fabrics[tray.name]
    return view.status.heartbeat_time.endswith(f".{tray.beats:06}Z")


class TestController:
    def test_f9_changes_during_downtime_are_applied(self, rack: Rack):
        tray = a_member(rack)
        numbers = rack.status()["assignment"]
        rack.stop_controllers()
        rack.create_domain("later")
        rack.unclaim("a")
        tray.leave()
        rack.start()
        wait_until("served", lambda: rack.status("later").get("assignment"))
        wait_until("left", lambda: rack.status()["nodes"] == [])
        assert rack.status()["assignment"] == numbers
        assert rack.status("later")["assignment"]["port"] != numbers["port"]

    def test_f9_lost_status_keeps_numbers_of_running_domain(self, rack: Rack):
        a_member(rack)
        numbers = rack.status()["assignment"]
        rack.stop_controllers()
        rack.create_domain("earlier")
        rack.client.merge_patch(
            DOMAINS.sub("status"),
            {"metadata": {"name": "train", "namespace": TEAM}, "status": None},
        )
        rack.start()
        wait_until("assigned again", lambda: rack.status().get("assignment"))
        assert rack.status()["assignment"] == numbers

    def test_f16_refused_template_is_reported_and_blocks_no_deletion(self, rack: Rack):
        rack.server.api.faults.add(
            Fault(verb="create", resource="resourceclaimtemplates", code=403, count=0)
        )
        rack.create_domain()
        wait_until(
            "reported", lambda: rack.condition("TemplatesReady").get("reason") == "CreateFailed"
        )
        rack.client.delete(DOMAINS, "train", namespace=TEAM)
        wait_until("deleted", lambda: rack.find(DOMAINS, "train", TEAM) is None)

    def test_deletion_continues_after_failed_claim_read(self, rack: Rack):
        rack.create_domain()
        wait_until("template", rack.template)
        rack.settle()
        rack.server.api.faults.add(Fault(verb="list", resource="resourceclaims", code=403, count=1))
        rack.client.delete(DOMAINS, "train", namespace=TEAM)
        wait_until("deleted", lambda: rack.find(DOMAINS, "train", TEAM) is None)

    def test_failing_writes_are_repeated(self, rack: Rack):
        for resource in ("computedomains", "computedomains/status", "fabricnodes"):
            rack.server.api.faults.add(Fault(verb="patch", resource=resource, code=500, count=2))
        a_member(rack)
        assert rack.replicas[0].workers.failure is None

    def test_what_went_while_no_watch_was_open_is_noticed(self, rack: Rack):
        """Events of deletions were missed for good: only a new list can tell."""
        tray = a_member(rack)
        rack.server.api.faults.add(Fault(verb="watch", code=503, count=0))
        rack.server.api.reader.end_watches()
        rack.unclaim("a")
        tray.leave()
        rack.server.api.store.compact()
        rack.server.api.faults.clear()
        wait_until("left", lambda: rack.status()["nodes"] == [])
        wait_until("no clique", lambda: rack.cliques() == [])


def test_restored_etcd_restarts_controller(rack: Rack):
    """After a restore of etcd all versions are old ones, and would be taken for late."""
    rack.create_domain()
    wait_until("template", rack.template)
    rack.settle()
    replica = rack.replicas[0]
    with rack.server.api.store.lock:
        rack.server.api.store.version -= 5
    next(r for r in replica.manager.reflectors if r.name == "computedomains").reflector.relist()
    wait_until("it starts over", lambda: replica.workers.failure is not None)
    assert "restored" in str(replica.workers.failure)


class TestLeaders:
    @pytest.fixture
    def pair(self) -> Iterator[Rack]:
        with Rack(is_elected=True) as rack:
            wait_until("one leads", rack.start("one").manager.is_leading)
            rack.start("two")
            yield rack

    def test_only_one_writes(self, pair: Rack):
        pair.create_domain()
        wait_until("served", lambda: pair.condition("Accepted"))
        one, two = (replica.manager for replica in pair.replicas)
        assert (one.is_leading(), two.is_leading()) == (True, False)
        wait_until("the standby sees it too", lambda: len(two.cache.domains) == 1)
        counts = [generate_latest(replica.manager.registry).decode() for replica in pair.replicas]
        counted = 'nvidia_dra_compute_domain_info{status="NotReady"} 1'
        assert [counted in text for text in counts] == [True, False]
        assert ["writes_total{" in text for text in counts] == [True, False]

    def test_f10_leader_that_leaves_hands_over_at_once(self, pair: Rack):
        pair.replicas.pop(0).stop()
        wait_until("two leads", lambda: leader(pair) == "two")
        pair.create_domain()
        wait_until("served", lambda: pair.condition("Accepted"))

    def test_f10_dead_leader_is_replaced_when_lease_expires(self, pair: Rack):
        pair.replicas.pop(0).crash()
        let_it_look(pair)
        pair.advance(0.7 * EAGER_LEASE.duration_s)
        let_it_look(pair)
        assert leader(pair) == "one"
        pair.advance(0.4 * EAGER_LEASE.duration_s)
        wait_until("two leads", lambda: leader(pair) == "two")
        pair.create_domain()
        wait_until("served", lambda: pair.condition("Accepted"))

    def test_renewed_lease_is_not_taken_whatever_its_times(self):
        """Only changes that are seen count: the holder's clock may be wrong by years."""
        with Rack(is_elected=True) as rack:
            body: dict[str, Any] = {
                "apiVersion": LEASES.api_version, "kind": "Lease",
                "metadata": {"name": "nvdra-controller", "namespace": NAMESPACE},
                "spec": {"holderIdentity": "other", "leaseDurationSeconds": 90, "leaseTransitions": 7},
            }  # fmt: skip
            rack.client.create(LEASES, body)
            replica = rack.start("one")
            for second in range(10):
                body["spec"]["renewTime"] = f"1999-01-01T00:00:{second:02}.000000Z"
                rack.client.merge_patch(LEASES, body)
                let_it_look(rack)
                rack.advance(50.0)
                let_it_look(rack)
                assert leader(rack) == "other"
            assert not replica.manager.is_leading()
            rack.advance(50.0)
            wait_until("taken when it stands still", lambda: leader(rack) == "one")
            lease = rack.client.get(LEASES, "nvdra-controller", namespace=NAMESPACE)
            assert lease["spec"]["leaseTransitions"] == 8

    def test_leaving_leader_releases_lease_after_last_write(self, pair: Rack):
        hangs = Fault(verb="create", resource="resourceclaimtemplates", action="hang", count=1)
        pair.server.api.faults.add(hangs)
        pair.create_domain()
        sent = pair.server.api.log
        wait_until("it writes", lambda: sent.count("create", "resourceclaimtemplates"))
        one = pair.replicas.pop(0)
        leaving = threading.Thread(target=one.stop)
        leaving.start()
        two = pair.replicas[0].manager
        wait_until("asked to stop", one.workers.stopping.is_set)
        let_it_look(pair)
        assert (leader(pair), two.is_leading()) == ("one", False)
        pair.server.api.faults.clear()
        leaving.join(60.0)
        wait_until("two leads", two.is_leading)

    def test_new_leader_relists_before_its_first_decision(self, pair: Rack):
        """Its watches may be behind what the last leader wrote: a slot would be given twice."""
        two = pair.replicas[1].manager
        zeroth = pair.tray("z")
        zeroth.report()  # its slot shows that the leader's watches are open
        assert zeroth.wait_for(lambda spec: spec.get("slot") is not None)["slot"] == 0
        wait_until("two has seen everything", two.is_synced)
        pair.server.api.faults.add(Fault(verb="watch", code=503, count=0))
        asked = pair.server.api.log.count("watch", "fabricnodes")
        for one in two.reflectors:
            one.reflector.relist()  # ends its watches, and new ones are refused
        wait_until(
            "two is refused", lambda: pair.server.api.log.count("watch", "fabricnodes") > asked
        )
        first = pair.tray("a")
        first.report()
        assert first.wait_for(lambda spec: spec.get("slot") is not None)["slot"] == 1
        second = pair.tray("bb")
        wait_until("there is an object for it", lambda: pair.find(FABRIC_NODES, "bb"))
        pair.replicas.pop(0).crash()
        second.report()
        assert "bb" not in two.cache.fabrics
        let_it_look(pair)
        pair.advance(1.1 * EAGER_LEASE.duration_s)
        assert second.wait_for(lambda spec: spec.get("slot") is not None)["slot"] == 2
        assert pair.spec("a")["slot"] == 1

    def test_leader_with_failed_watch_is_unhealthy_and_steps_down(self, pair: Rack):
        """It holds the Lease without deciding."""
        two = pair.replicas[1]
        wait_until("both have seen everything once", two.manager.is_synced)
        pair.server.api.faults.add(Fault(verb="list", code=403, count=0))
        pair.replicas.pop(0).stop()
        wait_until("two leads", two.manager.is_leading)
        wait_until("it tries", lambda: two.workers.rounds.name == "reconcile loop")
        pair.clock.advance(MAX_SILENCE_S + 1)
        assert "silent" in two.workers.rounds.problem()
        pair.server.api.faults.clear()

    def test_stop_does_not_wait_for_silent_server(self, pair: Rack):
        """Lists are repeated for longer than that."""
        one = pair.replicas.pop(0)
        wait_until("it has seen everything", one.manager.is_synced)
        pair.server.api.faults.add(Fault(verb="list", action="hang", count=0))
        asked = pair.server.api.log.count("list", "nodes")
        for reflector in one.manager.reflectors:
            reflector.reflector.relist()
        wait_until("it lists", lambda: pair.server.api.log.count("list", "nodes") > asked)
        began_s = time.monotonic()
        one.stop()
        assert time.monotonic() - began_s < 8.0
        pair.server.api.faults.clear()

    def test_leader_that_cannot_renew_stops_before_lease_expires(self, pair: Rack):
        one = pair.replicas[0]
        pair.server.api.faults.add(Fault(verb="get", resource="leases", code=403, count=0))
        pair.advance(1.1 * EAGER_LEASE.renew_deadline_s)
        wait_until("it ends", lambda: one.workers.failure is not None)
        assert not one.manager.is_leading()
        pair.server.api.faults.clear()
        pair.replicas.pop(0).stop()


def let_it_look(rack: Rack) -> None:
    """Return after the only replica has read the Lease and thought about it, both after this call."""
    goal = rack.server.api.log.count("get", "leases") + 3
    wait_until("it reads the Lease", lambda: rack.server.api.log.count("get", "leases") >= goal)


def leader(rack: Rack) -> str:
    lease = rack.find(LEASES, "nvdra-controller", NAMESPACE)
    return str(lease["spec"]["holderIdentity"]) if lease else ""
