"""Isolation by channel, an IMEX of the host, large domains, bugs of ours, and what the metrics say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import generate_latest

from nvdra_cluster.control import controller
from nvdra_cluster.control.controller import RECHECK_S
from nvdra_cluster.decide.writes import DOMAINS
from nvdra_cluster.settings import FabricSettings, ImexMode
from nvdra_core.api import Isolation
from nvdra_core.kube.resources import JsonObject
from tests.beds.services.controller_rack import TEAM, Rack, Tray
from tests.lib.waits import wait_until

BY_CHANNEL = FabricSettings(isolation=Isolation.CHANNEL)
BY_HOST = FabricSettings(mode=ImexMode.HOST_MANAGED)


@pytest.fixture
def rack(request: pytest.FixtureRequest) -> Iterator[Rack]:
    with Rack(getattr(request, "param", None)) as made:
        made.start()
        yield made


def report_domains(rack: Rack, tray: Tray, *names: str) -> None:
    """The tray's IMEX serves these domains, with one claim each."""
    domains: list[JsonObject] = []
    for name in names:
        uid = rack.domain(name)["metadata"]["uid"]
        held = {"namespace": TEAM, "name": f"{name}-{tray.name}", "uid": f"{uid}-{tray.name}"}
        domains.append({"uid": uid, "ready": True, "claims": [held]})
    tray.report(domains=domains)


@pytest.mark.parametrize("rack", [BY_CHANNEL], indirect=True)
class TestChannels:
    def test_two_domains_share_node_and_its_port_but_no_channel(self, rack: Rack):
        tray = rack.tray("a")
        for name in ("train", "infer"):
            rack.create_domain(name)
            rack.claim("a", name)
        tray.report()
        tray.wait_for(lambda spec: len(spec.get("domains") or ()) == 2)
        tray.running = tray.wait_for(lambda spec: spec.get("slot") is not None)["slot"]
        report_domains(rack, tray, "train", "infer")
        for name in ("train", "infer"):
            wait_until("ready", lambda: rack.status(name).get("status") == "Ready")  # noqa: B023
        assigned = rack.spec("a")["domains"]
        assert {domain["port"] for domain in assigned} == {24000}
        assert sorted(domain["channel"] for domain in assigned) == [1, 2]
        for domain in assigned:
            assert rack.status(domain["name"])["assignment"]["channel"] == domain["channel"]

    def test_allocation_mode_all_is_refused(self, rack: Rack):
        rack.create_domain(allocationMode="All")
        refused = wait_until("refused", lambda: rack.condition("Accepted"))
        assert (refused["status"], refused["reason"]) == ("False", "AllocationModeNotAllowed")
        assert rack.template() is None


@pytest.mark.parametrize("rack", [BY_HOST], indirect=True)
def test_imex_of_host_needs_no_slot_and_gives_one_channel(rack: Rack):
    tray = rack.tray("a")
    rack.create_domain(allocationMode="All")
    rack.claim("a")
    tray.report()
    spec = tray.wait_for(lambda spec: bool(spec.get("domains")))
    assert "slot" not in spec
    report_domains(rack, tray, "train")
    wait_until("ready", lambda: rack.status().get("status") == "Ready")
    template = rack.template()
    assert template is not None
    (config,) = template["spec"]["spec"]["devices"]["config"]
    assert config["opaque"]["parameters"]["allocationMode"] == "Single"


def test_large_domain_status_is_written_in_batches(rack: Rack):
    count = 80
    trays = [rack.tray(f"tray-{index:03}", clique=f"u.{index // 18}") for index in range(count)]
    rack.create_domain()
    for tray in trays:
        rack.claim(tray.name)
        tray.report()
    wait_until("all take part", lambda: rack.status().get("totalNodes") == count)
    rack.settle()
    rack.server.api.log.clear()
    began_s = rack.clock.monotonic()
    for tray in trays:
        tray.join()
    wait_until("all ready", lambda: rack.status().get("readyNodes") == count)
    intervals = (rack.clock.monotonic() - began_s) / (count * controller.STATUS_INTERVAL_PER_NODE_S)
    assert rack.server.api.log.count("patch", "computedomains/status") <= intervals + 1
    assert rack.status()["status"] == "Ready"


def test_changed_isolation_waits_for_domains_of_old_one():
    with Rack() as rack:
        rack.start()
        tray = rack.tray("a")
        rack.create_domain()
        rack.claim("a")
        tray.join()
        wait_until("ready", lambda: rack.status().get("status") == "Ready")
        before = rack.status()["assignment"]
        rack.stop_controllers()
        rack.fabric = FabricSettings(isolation=Isolation.CHANNEL)
        rack.start()
        rack.create_domain("other")
        wait_until("served", lambda: rack.status("other").get("assignment"))
        rack.settle()
        assert rack.status("other")["assignment"]["isolation"] == "domain"
        assert rack.status()["assignment"] == before
        assert rack.spec("a")["domains"][0]["port"] == before["port"]
        assert not rack.spec("a").get("sharedPort")
        events = rack.server.objects("events", "")
        assigned = {
            one["involvedObject"]["name"]: one["message"]
            for one in events
            if one["reason"] == "IsolationKept"
        }
        assert "isolation=channel" in assigned["train"]
        rack.unclaim("a")
        tray.leave()
        for name in ("train", "other"):
            rack.client.delete(DOMAINS, name, namespace=TEAM)
        wait_until("deleted", lambda: not rack.client.list(DOMAINS).items)
        rack.advance(RECHECK_S)
        tray.wait_for(lambda spec: bool(spec.get("sharedPort")))
        rack.create_domain("later")
        wait_until("served", lambda: rack.status("later").get("assignment"))
        assert rack.status("later")["assignment"]["isolation"] == "channel"


def metrics(rack: Rack) -> str:
    return generate_latest(rack.replicas[0].manager.registry).decode()


def test_metrics_count_domains_nodes_and_writes(rack: Rack):
    tray = rack.tray("a")
    rack.create_domain()
    rack.create_domain("other")
    rack.claim("a")
    tray.join()
    wait_until("ready", lambda: rack.status().get("status") == "Ready")
    rack.settle()
    text = metrics(rack)
    assert 'nvidia_dra_compute_domain_info{status="Ready"} 1' in text
    assert 'nvidia_dra_compute_domain_info{status="NotReady"} 1' in text
    assert "nvdra_controller_leader 1" in text
    assert 'nvdra_controller_fabric_nodes{condition="all"} 1' in text
    assert 'writes_total{outcome="ok",resource="resourceclaimtemplates",verb="create"} 2' in text


def test_metrics_are_right_at_once_after_restart(rack: Rack):
    """Upstream counts a domain only when its status changes."""
    rack.create_domain()
    wait_until("served", lambda: rack.condition("Accepted"))
    rack.stop_controllers()
    rack.start()
    wait_until("synced", rack.replicas[0].manager.is_synced)
    wait_until("it leads", rack.replicas[0].manager.is_leading)
    assert 'nvidia_dra_compute_domain_info{status="NotReady"} 1' in metrics(rack)
