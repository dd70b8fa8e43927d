"""The controller with the services of two trays, from ComputeDomain to channel."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from nvdra_cluster.decide.writes import CLIQUES, DOMAINS, EVENTS, TEMPLATES
from nvdra_cluster.settings import ControllerSettings, FabricSettings
from nvdra_core.errors import ApiError
from nvdra_core.runtime.clock import Deadline, SystemClock
from tests.beds.services.replica import Replica
from tests.beds.services.tray_rack import Rack, Tray
from tests.lib.objects import obj
from tests.lib.waits import wait_until
from tests.service.computedomain.test_channels import peers_of

pytestmark = [pytest.mark.sim, pytest.mark.timeout(300)]

NAMESPACE = "nvdra"


def deadline() -> Deadline:
    return Deadline(10.0, SystemClock())


class Cluster:
    """A rack with a controller; acts as its users."""

    def __init__(self, rack: Rack) -> None:
        self.rack = rack
        for name in (NAMESPACE, "ns"):
            rack.server.add(obj("Namespace", name))
        self.start()

    def start(self, **fabric: Any) -> None:
        """Start the controller, with these settings."""
        settings = ControllerSettings(
            fabric=FabricSettings(namespace=NAMESPACE, **fabric), identity="one", is_elected=False,
            lease_namespace=NAMESPACE,
        )  # fmt: skip
        self.replica = Replica(self.rack.server, settings, SystemClock())

    def create_domain(self, name: str = "train") -> str:
        template = {"resourceClaimTemplate": {"name": f"{name}-channel"}}
        made = self.rack.client.create(
            DOMAINS,
            {
                "apiVersion": DOMAINS.api_version, "kind": "ComputeDomain",
                "metadata": {"name": name, "namespace": "ns"},
                "spec": {"numNodes": 0, "channel": template},
            },
            deadline=deadline(),
        )  # fmt: skip
        return str(made["metadata"]["uid"])

    def claim(self, tray: Tray, name: str = "train") -> str:
        """A claim of the domain's template, allocated on the tray."""
        template = wait_until("the template", lambda: self.find(TEMPLATES, f"{name}-channel"))
        [config] = template["spec"]["spec"]["devices"]["config"]
        domain = config["opaque"]["parameters"]["domainID"]
        return self.rack.claim(f"{name}-{tray.index}", tray, domain)

    def find(self, resource: Any, name: str) -> Any:
        try:
            return self.rack.client.get(resource, name, namespace="ns", deadline=deadline())
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def status(self, name: str = "train") -> dict[str, Any]:
        found = self.find(DOMAINS, name) or {}
        status: dict[str, Any] = found.get("status") or {}
        return status


@pytest.fixture
def cluster(make_rack) -> Iterator[Cluster]:
    rack = make_rack(2, has_controller=True)
    made = Cluster(rack)
    yield made
    made.replica.stop()


def are_ready(cluster: Cluster, count: int) -> bool:
    nodes = cluster.status().get("nodes") or []
    return [node["status"] for node in nodes] == ["Ready"] * count


def test_domain_of_two_nodes_from_creation_to_deletion(cluster):
    trays = cluster.rack.trays
    for tray in trays:
        tray.start(imexEncryption="required")
    for tray in trays:
        tray.register()
        wait_until("slices", lambda tray=tray: cluster.rack.slices(tray))  # type: ignore[misc]
    cluster.create_domain()
    for tray in trays:
        claim = cluster.claim(tray)
        answer = tray.prepare(claim)
        assert answer.errors == {}
        assert len(answer.devices[cluster.rack.uids[claim]]) == 1
    for tray in trays:
        wait_until(f"{tray.name} is connected", partial(peers_of, tray, [1]))
    wait_until(f"ready nodes: {cluster.status()}", lambda: are_ready(cluster, 2))
    wait_until("the domain is Ready", lambda: cluster.status().get("status") == "Ready")
    cliques = cluster.rack.client.list(CLIQUES, namespace=NAMESPACE, deadline=deadline()).items
    assert [d["status"] for d in cliques[0]["daemons"]] == ["Ready", "Ready"]
    assert sorted(d["index"] for d in cliques[0]["daemons"]) == [0, 1]

    cluster.rack.client.delete(DOMAINS, "train", namespace="ns", deadline=deadline())
    assert trays[0].prepare("train-0").errors == {}, "a prepared claim goes on"
    for tray in trays:
        assert tray.unprepare(f"train-{tray.index}").errors == {}
        cluster.rack.forget(f"train-{tray.index}")
    wait_until("the deletion", lambda: cluster.find(DOMAINS, "train") is None)
    for tray in trays:
        wait_until("IMEX ends", lambda tray=tray: tray.imex()["ActiveState"] == "inactive")  # type: ignore[misc]
        assert tray.imex()["session"]["allocations"] is True


def test_died_imex_makes_the_node_not_ready(cluster):
    [tray, _] = cluster.rack.trays
    tray.start(imexEncryption="required", imexAfterAbruptEnd="hold")
    tray.register()
    wait_until("slices", lambda: cluster.rack.slices(tray))
    cluster.create_domain()
    assert tray.prepare(cluster.claim(tray)).errors == {}
    wait_until("ready", lambda: are_ready(cluster, 1))
    tray.kill_imex()
    wait_until(
        "it is not ready",
        lambda: [n["status"] for n in cluster.status().get("nodes", [])] == ["NotReady"],
    )
    assert tray.unprepare("train-0").errors == {}


def condition_of(cluster: Cluster, kind: str) -> dict[str, Any]:
    found = cluster.status().get("conditions") or []
    return next((dict(one) for one in found if one["type"] == kind), {})


def test_imex_restart_under_a_job_is_condition_and_event(cluster):
    """needrestart after an upgrade of a library: the daemon is READY again, and the job's shared memory is lost."""
    [tray, _] = cluster.rack.trays
    tray.start(imexEncryption="required")
    tray.register()
    wait_until("slices", lambda: cluster.rack.slices(tray))
    cluster.create_domain()
    assert tray.prepare(cluster.claim(tray)).errors == {}
    wait_until("the domain is Ready", lambda: cluster.status().get("status") == "Ready")
    assert condition_of(cluster, "Degraded")["status"] == "False"
    first = tray.imex()["InvocationID"]
    for verb in ("stop", "start"):
        subprocess.run(
            [tray.root.path / "usr/bin/systemctl", verb, "nvdra-imex.service"], check=True
        )
    wait_until("it is degraded", lambda: condition_of(cluster, "Degraded").get("status") == "True")
    assert tray.imex()["InvocationID"] != first
    wait_until("the reason", lambda: condition_of(cluster, "Degraded")["reason"] == "ImexRestarted")
    assert "ns/train-0" in condition_of(cluster, "Degraded")["message"]
    events = cluster.rack.client.list(EVENTS, namespace="ns", deadline=deadline()).items
    assert ("Warning", "ImexRestarted") in {(one["type"], one["reason"]) for one in events}
    assert tray.unprepare("train-0").errors == {}
    cluster.rack.forget("train-0")
    wait_until("the recovery", lambda: condition_of(cluster, "Degraded")["status"] == "False")


def node_map(tray: Tray) -> int:
    return len((tray.imex_dir / "nodes_config.cfg").read_text().splitlines())


def test_raised_slot_count_applies_to_new_domains(cluster):
    first, second = cluster.rack.trays
    cluster.replica.stop()
    cluster.start(slot_count=3)
    for tray in (first, second):
        tray.start(imexEncryption="required")
        tray.register()
        wait_until("slices", lambda tray=tray: cluster.rack.slices(tray))  # type: ignore[misc]
    cluster.create_domain()
    assert first.prepare(cluster.claim(first)).errors == {}
    before = first.imex()["InvocationID"]
    cluster.replica.stop()
    cluster.start(slot_count=5)
    cluster.create_domain("other")
    assert second.prepare(cluster.claim(second, "other")).errors == {}
    assert (node_map(first), node_map(second)) == (3, 5)
    assert second.prepare(cluster.claim(second)).errors != {}, "it serves another domain"
    for claim in ("other-1", "train-1"):
        assert second.unprepare(claim).errors == {}
    cluster.rack.forget("other-1")
    wait_until("it joins the first domain", lambda: second.prepare("train-1").errors == {})
    assert (node_map(second), first.imex()["InvocationID"]) == (3, before)
    for tray in (first, second):
        wait_until(f"{tray.name} is connected", partial(peers_of, tray, [1]))
