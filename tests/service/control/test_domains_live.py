"""The whole controller against the API server in memory: a domain's life, with the number of writes it costs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import generate_latest

from nvdra_cluster.control.controller import RECHECK_S
from nvdra_cluster.decide.number_allocator import NUMBER_REUSE_DELAY_S
from nvdra_cluster.decide.writes import CLIQUES, DOMAINS, EVENTS, FABRIC_NODES, TEMPLATES
from nvdra_cluster.settings import FabricSettings, PortRange
from nvdra_core.kube.resources import CLAIMS
from tests.beds.services.controller_rack import CLIQUE, NAMESPACE, TEAM, Rack
from tests.lib.waits import wait_until


@pytest.fixture
def rack() -> Iterator[Rack]:
    with Rack() as made:
        made.start()
        yield made


def is_ready(rack: Rack, name: str = "train") -> bool:
    return rack.status(name).get("status") == "Ready"


def test_new_domain_gets_template_finalizer_and_numbers(rack: Rack):
    uid = rack.create_domain()["metadata"]["uid"]
    wait_until("accepted", lambda: rack.condition("Accepted").get("status") == "True")
    template = rack.template()
    assert template is not None
    assert template["metadata"]["labels"]["resource.nvidia.com/computeDomain"] == uid
    assert rack.domain()["metadata"]["finalizers"] == ["resource.nvidia.com/computeDomain"]
    assert rack.status()["assignment"] == {"isolation": "domain", "port": 24001, "channel": 0}
    assert rack.status()["status"] == "NotReady"
    assert rack.condition("Ready")["reason"] == "NoNodes"


def test_unused_domain_costs_three_writes(rack: Rack):
    rack.create_domain("other")
    wait_until("accepted", lambda: rack.condition("Accepted", "other"))
    rack.settle()
    rack.server.api.log.clear()
    rack.create_domain()
    wait_until("accepted", lambda: rack.condition("Accepted"))
    rack.settle()
    assert rack.writes() == 1 + 3


def test_nodes_join_get_ready_and_leave(rack: Rack):
    trays = [rack.tray("a"), rack.tray("bb")]
    rack.create_domain(nodes=2)
    for tray in trays:
        rack.claim(tray.name)
        tray.join()
    wait_until("ready", lambda: is_ready(rack))
    rack.settle()
    nodes = rack.status()["nodes"]
    assert [(n["name"], n["cliqueID"], n["status"]) for n in nodes] == [
        ("a", CLIQUE, "Ready"), ("bb", CLIQUE, "Ready"),
    ]  # fmt: skip
    assert {n["index"] for n in nodes} == {0, 1}
    (clique,) = rack.cliques()
    assert clique["metadata"]["name"] == f"{rack.domain()['metadata']['uid']}.{CLIQUE}"
    assert [d["nodeName"] for d in clique["daemons"]] == ["a", "bb"]
    assert rack.spec("a")["slots"] == rack.spec("bb")["slots"]
    assert rack.spec("a")["domains"][0]["members"] == [0, 1]

    for tray in trays:
        rack.unclaim(tray.name)
        tray.leave()
    wait_until("no nodes", lambda: rack.status()["nodes"] == [])
    wait_until("no clique", lambda: rack.cliques() == [])
    wait_until("no domains", lambda: not rack.spec("a").get("domains"))
    assert not is_ready(rack)
    assert rack.spec("a")["slot"] in (0, 1)


def test_heartbeats_alone_cost_controller_nothing(rack: Rack):
    tray = rack.tray("a")
    rack.create_domain()
    rack.claim("a")
    tray.join()
    wait_until("ready", lambda: is_ready(rack))
    rack.settle()
    rack.server.api.log.clear()
    for _ in range(20):
        tray.report()
    rack.settle()
    assert rack.writes() == 20


def test_node_without_fabric_takes_part_without_slot(rack: Rack):
    tray = rack.tray("cpu", clique="")
    rack.create_domain()
    rack.claim("cpu")
    tray.join()
    wait_until("ready", lambda: is_ready(rack))
    (node,) = rack.status()["nodes"]
    assert (node["cliqueID"], node["index"]) == ("", -1)
    assert rack.cliques() == []


class TestClaimsByHand:
    """They carry no label, so only the node's report tells of them."""

    def test_node_with_one_takes_part(self, rack: Rack):
        tray = rack.tray("a")
        rack.create_domain()
        rack.claim("a", by_hand=True)
        tray.join()
        wait_until("ready", lambda: is_ready(rack))
        tray.leave()
        wait_until("left", lambda: rack.status()["nodes"] == [])

    def test_false_report_gets_nothing_and_holds_nothing(self, rack: Rack):
        liar, honest = rack.tray("liar"), rack.tray("a")
        uid = rack.create_domain()["metadata"]["uid"]
        rack.claim("a")
        honest.join()
        for name in ("train-a", "no-such-claim"):
            held = {"namespace": TEAM, "name": name, "uid": rack.claim_uids.get(name, "none")}
            liar.report(domains=[{"uid": uid, "ready": False, "claims": [held]}])
            rack.settle()
            assert not rack.spec("liar").get("domains")
        metrics = generate_latest(rack.replicas[0].manager.registry).decode()
        assert 'nvdra_controller_fabric_nodes{condition="refuted"} 1' in metrics
        wait_until("ready", lambda: is_ready(rack))
        assert [node["name"] for node in rack.status()["nodes"]] == ["a"]
        rack.unclaim("a")
        honest.leave()
        rack.client.delete(DOMAINS, "train", namespace=TEAM)
        wait_until("deleted", lambda: rack.find(DOMAINS, "train", TEAM) is None)
        (event,) = (e for e in rack.server.objects("events", "") if e["reason"] == "ReportIgnored")
        assert "on node liar" in event["message"]


def blocked(rack: Rack) -> str:
    """Why the domain is not deleted yet; empty when nothing blocks it."""
    condition = rack.condition("DeletionBlocked")
    return str(condition["message"]) if condition.get("status") == "True" else ""


class TestDeletion:
    def test_waits_for_claims_and_says_whose(self, rack: Rack):
        tray = rack.tray("a")
        rack.create_domain()
        rack.claim("a")
        tray.join()
        wait_until("ready", lambda: is_ready(rack))
        rack.client.delete(DOMAINS, "train", namespace=TEAM)
        wait_until("blocked by the claim", lambda: "team/train-a" in blocked(rack))
        wait_until("no template", lambda: rack.template() is None)
        tray.wait_for(lambda spec: spec["domains"][0]["deleting"])
        assert rack.cliques()

        rack.unclaim("a")
        tray.leave()
        wait_until("deleted", lambda: rack.find(DOMAINS, "train", TEAM) is None)
        wait_until("no clique", lambda: rack.cliques() == [])

    def test_can_be_forced(self, rack: Rack):
        rack.create_domain()
        rack.claim("a")
        rack.client.delete(DOMAINS, "train", namespace=TEAM)
        wait_until("blocked", lambda: blocked(rack))
        annotated = {"name": "train", "namespace": TEAM, "annotations": {"fabric.nvdra.io/force-delete": "true"}}  # fmt: skip
        rack.client.merge_patch(DOMAINS, {"metadata": annotated})
        wait_until("deleted", lambda: rack.find(DOMAINS, "train", TEAM) is None)

    def test_unused_domain_is_deleted_and_its_number_reserved(self, rack: Rack):
        rack.create_domain()
        wait_until("template", rack.template)
        rack.client.delete(DOMAINS, "train", namespace=TEAM)
        wait_until("deleted", lambda: rack.find(DOMAINS, "train", TEAM) is None)
        assert rack.template() is None
        rack.create_domain("next")
        wait_until("accepted", lambda: rack.status("next").get("assignment"))
        assert rack.status("next")["assignment"]["port"] == 24002

    def test_deletion_of_a_large_domain_costs_few_writes(self, rack: Rack):
        """Upstream takes a label off each node, five a second."""
        trays = [rack.tray(f"tray-{number}") for number in range(12)]
        before = rack.server.objects("nodes", "")
        rack.create_domain()
        for tray in trays:
            rack.claim(tray.name)
            tray.join()
        wait_until("all are ready", lambda: rack.status().get("readyNodes") == len(trays))
        assert rack.server.objects("nodes", "") == before
        for tray in trays:
            rack.unclaim(tray.name)
            tray.leave()
        rack.settle()
        rack.server.api.log.clear()
        rack.client.delete(DOMAINS, "train", namespace=TEAM)
        rack.settle()
        assert rack.find(DOMAINS, "train", TEAM) is None
        assert rack.writes() < len(trays)
        assert rack.server.objects("nodes", "") == before


class TestHealing:
    def test_deleted_template_is_recreated(self, rack: Rack):
        rack.create_domain()
        first = wait_until("template", rack.template)
        rack.client.delete(TEMPLATES, "train-channel", namespace=TEAM)
        wait_until(
            "another template",
            lambda: (rack.template() or first)["metadata"]["uid"] != first["metadata"]["uid"],
        )

    def test_removed_template_label_is_restored(self, rack: Rack):
        uid = rack.create_domain()["metadata"]["uid"]
        first = wait_until("template", rack.template)
        label = "resource.nvidia.com/computeDomain"
        for _ in range(2):
            metadata = {"name": "train-channel", "namespace": TEAM, "labels": {label: None}}
            rack.client.merge_patch(TEMPLATES, {"metadata": metadata})
            wait_until(
                "labelled",
                lambda: (rack.template() or first)["metadata"].get("labels", {}).get(label) == uid,
            )
        assert (rack.template() or {})["metadata"]["uid"] == first["metadata"]["uid"]
        rack.settle()
        assert rack.condition("TemplatesReady")["status"] == "True"
        rack.client.delete(DOMAINS, "train", namespace=TEAM)
        wait_until("deleted", lambda: rack.find(DOMAINS, "train", TEAM) is None)
        assert rack.template() is None

    def test_template_held_by_foreign_finalizer_blocks_deletion(self, rack: Rack):
        rack.create_domain()
        first = wait_until("template", rack.template)
        held = {"name": "train-channel", "namespace": TEAM, "finalizers": [*first["metadata"]["finalizers"], "example.com/held"]}  # fmt: skip
        rack.client.merge_patch(TEMPLATES, {"metadata": held})
        rack.settle()
        rack.client.delete(TEMPLATES, "train-channel", namespace=TEAM)
        wait_until("reported", lambda: rack.condition("TemplatesReady").get("reason") == "Pending")
        free = {"name": "train-channel", "namespace": TEAM, "finalizers": None}
        rack.client.merge_patch(TEMPLATES, {"metadata": free})
        wait_until("again", lambda: rack.condition("TemplatesReady").get("status") == "True")

    def test_deleted_clique_is_recreated(self, rack: Rack):
        tray = rack.tray("a")
        rack.create_domain()
        rack.claim("a")
        tray.join()
        (clique,) = wait_until("clique", rack.cliques)
        rack.client.delete(CLIQUES, clique["metadata"]["name"], namespace=NAMESPACE)

        def is_another() -> bool:
            return any(c["metadata"]["uid"] != clique["metadata"]["uid"] for c in rack.cliques())

        wait_until("another clique", is_another)

    def test_deleted_fabric_node_is_recreated_with_its_slot(self, rack: Rack):
        first, second = rack.tray("a"), rack.tray("bb")
        first.report()
        first.wait_for(lambda spec: spec.get("slot") == 0)
        second.report()
        second.wait_for(lambda spec: spec.get("slot") == 1)
        rack.client.delete(FABRIC_NODES, "bb")
        second.report()
        assert second.wait_for(lambda spec: spec.get("slot") is not None)["slot"] == 1

    def test_leftovers_of_deleted_domains_are_removed_at_start(self):
        with Rack() as rack:
            rack.start()
            rack.create_domain()
            wait_until("template", rack.template)
            rack.stop_controllers()
            domain = {"name": "train", "namespace": TEAM, "finalizers": None}
            rack.client.merge_patch(DOMAINS, {"metadata": domain})
            rack.client.delete(DOMAINS, "train", namespace=TEAM)
            rack.start()
            wait_until("no template", lambda: rack.template() is None)


def events(rack: Rack) -> list[str]:
    """Reasons of the team's events. One is written a moment after the status that it tells of."""
    return [event["reason"] for event in rack.client.list(EVENTS, namespace=TEAM).items]


class TestTrouble:
    def test_taken_template_name_is_reported_and_retried(self, rack: Rack):
        foreign = {
            "apiVersion": TEMPLATES.api_version, "kind": "ResourceClaimTemplate",
            "metadata": {"name": "train-channel", "namespace": TEAM},
            "spec": {"spec": {"devices": {}}},
        }  # fmt: skip
        rack.client.create(TEMPLATES, foreign)
        rack.create_domain()
        wait_until(
            "reported", lambda: rack.condition("TemplatesReady").get("reason") == "NameTaken"
        )
        wait_until("an event", lambda: "NameTaken" in events(rack))
        assert rack.condition("Accepted")["status"] == "True"
        rack.client.delete(TEMPLATES, "train-channel", namespace=TEAM)
        wait_until("made", lambda: rack.condition("TemplatesReady").get("status") == "True")

    def test_domain_without_spec_affects_no_other(self, rack: Rack):
        rack.server.add({
            "apiVersion": DOMAINS.api_version, "kind": "ComputeDomain",
            "metadata": {"name": "empty", "namespace": TEAM},
        })  # fmt: skip
        rack.create_domain()
        wait_until("accepted", lambda: rack.condition("Accepted").get("status") == "True")
        wait_until(
            "refused", lambda: rack.condition("Accepted", "empty").get("reason") == "InvalidSpec"
        )
        rack.client.delete(DOMAINS, "empty", namespace=TEAM)
        wait_until("deleted", lambda: rack.find(DOMAINS, "empty", TEAM) is None)

    def test_more_nodes_than_slots_are_degraded(self):
        with Rack(FabricSettings(slot_count=1)) as rack:
            rack.start()
            first, second = rack.tray("a"), rack.tray("bb")
            first.report()
            first.wait_for(lambda spec: spec.get("slot") == 0)
            rack.create_domain()
            rack.claim("bb")
            second.report()
            wait_until("reported", lambda: rack.condition("Degraded").get("reason") == "CliqueFull")
            assert "bb" in rack.condition("Ready")["message"]
            assert "raise maxNodesPerDomain" in rack.condition("Ready")["message"]

    def test_waiting_domain_gets_next_free_number(self):
        with Rack(FabricSettings(ports=PortRange(24000, 24001))) as rack:
            rack.start()
            rack.create_domain()
            wait_until("served", lambda: rack.status().get("assignment"))
            rack.create_domain("second")
            wait_until(
                "reported",
                lambda: rack.condition("Accepted", "second").get("reason") == "NoNumberFree",
            )
            rack.client.delete(DOMAINS, "train", namespace=TEAM)
            wait_until("deleted", lambda: rack.find(DOMAINS, "train", TEAM) is None)
            rack.settle()
            rack.advance(NUMBER_REUSE_DELAY_S + RECHECK_S)
            wait_until("served", lambda: rack.status("second").get("assignment"))

    def test_api_outage_is_waited_out(self, rack: Rack):
        rack.create_domain()
        wait_until("template", rack.template)
        rack.server.stop()
        rack.clock.wait(rack.replicas[0].workers.stopping, 0.5)
        rack.server.start()
        rack.create_domain("after")
        wait_until("accepted", lambda: rack.condition("Accepted", "after").get("status") == "True")
        assert rack.replicas[0].workers.failure is None

    def test_claims_of_another_namespace_count_for_nothing(self, rack: Rack):
        uid = rack.create_domain()["metadata"]["uid"]
        rack.server.add({
            "apiVersion": CLAIMS.api_version, "kind": "ResourceClaim",
            "metadata": {"name": "evil", "namespace": "elsewhere", "labels": {"resource.nvidia.com/computeDomain": uid}},
            "spec": {"devices": {}},
            "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "p"}]},
        })  # fmt: skip
        wait_until("template", rack.template)
        rack.client.delete(DOMAINS, "train", namespace=TEAM)
        wait_until("deleted", lambda: rack.find(DOMAINS, "train", TEAM) is None)
