"""The node's own code on a real API server with the chart's rights and policies: what it writes is let through."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nvdra_core.api.fabric import FabricNodeSpec, FabricNodeStatus
from nvdra_core.errors import ApiError
from nvdra_core.kube.resources import CLAIMS, EVENTS, FABRIC_NODES, WriteOptions
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.app.renewal import Renewal
from nvdra_node.checkpoint.claim import ClaimRef, ClaimUID
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.host.files import HostFiles
from nvdra_node.imex.report.writer import StatusWriter
from nvdra_node.imex.sources.spec import SpecReflector
from nvdra_node.kube import token
from nvdra_node.kube.client import Client
from nvdra_node.kube.config import KubeConfig
from nvdra_node.kube.dra import DraApi
from nvdra_node.kubeletplugin import node_events
from nvdra_node.kubeletplugin.claims import status_writer
from nvdra_node.kubeletplugin.claims.status_writer import ClaimStatusWriter
from nvdra_node.kubeletplugin.claims.wait_events import MIN_WAIT_S, WaitEvents
from nvdra_node.kubeletplugin.events import EventSource
from nvdra_node.kubeletplugin.slices import diff
from nvdra_node.kubeletplugin.slices.client import SliceClient
from nvdra_node.kubeletplugin.slices.diff import Target
from tests.beds.cluster.artifacts.programs import KUBERNETES
from tests.beds.cluster.control import wire
from tests.beds.cluster.layout import SERVER
from tests.beds.cluster.marks import needs_cluster
from tests.beds.services.attackbed import (  # fmt: skip
    CHANNEL,
    GPU,
    KUBELET,
    MERGE,
    NIC,
    OWN,
    RESOURCE_API,
    TEAM,
    TOKEN,
    Request,
    World,
    a_world,
)
from tests.beds.services.attackbed import FABRIC_NODES as FABRIC_PATH
from tests.fakes.clock import FakeClock
from tests.lib.objects import reference
from tests.lib.waits import wait_until

pytestmark = needs_cluster(timeout_s=300, has_nodes=False)

CLOCK = SystemClock()
WEEK_H = 168
REQUEST_S = 10.0
Connect = Callable[[str], Client]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with a_world("at-work", tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture
def connect(world: World) -> Iterator[Connect]:
    """Clients of the product with a node's credentials; the calling thread is where the API server is."""
    clients: list[Client] = []
    layout = world.cluster.layout
    ca_file = str(layout.pki / "ca.crt")

    def made(by: str) -> Client:
        if by == TOKEN:
            config = KubeConfig(server=SERVER, ca_file=ca_file, token=world.token(OWN))
        else:
            pair = str(layout.pki / layout.identity(OWN))
            config = KubeConfig(
                server=SERVER, ca_file=ca_file,
                client_cert_file=f"{pair}.crt", client_key_file=f"{pair}.key",
            )  # fmt: skip
        clients.append(Client(config))
        return clients[-1]

    with wire.inside(layout.netns):
        yield made
        for client in clients:
            client.close()


def limit() -> Deadline:
    return Deadline(REQUEST_S, CLOCK)


@pytest.mark.parametrize("driver", [GPU, CHANNEL])
@pytest.mark.parametrize("by", [TOKEN, KUBELET])
def test_slices_are_published_changed_and_withdrawn(world: World, connect: Connect, by: str, driver: str) -> None:  # fmt: skip
    slices = SliceClient(DraApi(connect(by)), driver, OWN)
    target = Target(driver=driver, node=OWN, node_uid=slices.node_uid(limit()))
    assert target.node_uid == world.uids[OWN]
    parts: list[dict[str, Any]] = [{"devices": [{"name": "dev-7", "attributes": {}}]}]
    body = diff.new_slice(target, parts, 0, 1)
    slices.create(body, limit(), dry_run=True)
    made = slices.create(body, limit())
    made["spec"]["pool"]["generation"] += 1
    changed = slices.update(made, limit())
    listed = slices.list(limit()).items
    assert changed["metadata"]["name"] in {one["metadata"]["name"] for one in listed}
    slices.delete(changed, limit())
    left = {one["metadata"]["name"] for one in slices.list(limit()).items}
    assert changed["metadata"]["name"] not in left


@pytest.mark.parametrize("by", [TOKEN, KUBELET])
def test_fabric_node_is_followed_and_its_status_written(world: World, connect: Connect, by: str) -> None:  # fmt: skip
    client = connect(by)
    received: list[FabricNodeSpec | None] = []
    watch = SpecReflector(client, FABRIC_NODES, OWN, lambda spec, _: received.append(spec))
    thread = threading.Thread(target=watch.run)
    thread.start()
    ends_s = time.monotonic() + REQUEST_S
    while not received and time.monotonic() < ends_s:
        time.sleep(0.05)
    watch.stop()
    thread.join()
    assert received and received[0] is not None
    status = FabricNodeStatus(boot_id=f"boot-of-{by}")
    writer = StatusWriter(client, FABRIC_NODES, OWN, lambda: (status, 60.0), CLOCK)
    writer.write_if_due()
    assert writer.writes == 1
    assert world.get(f"{FABRIC_PATH}/{OWN}")["status"]["bootID"] == f"boot-of-{by}"


def test_metadata_sent_with_status_has_no_effect(world: World) -> None:
    """The API server drops it before policies see it: answered 200, and nothing is changed."""
    owner = reference("Node", OWN, uid=world.uids[OWN])
    metadata = {
        "labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["example.com/stay"],
        "ownerReferences": [owner],
    }  # fmt: skip
    claim = f"{RESOURCE_API}/v1/namespaces/{TEAM}/resourceclaims/mine"
    for path in (f"{FABRIC_PATH}/{OWN}", claim):
        before = world.get(path)
        body = {"metadata": metadata, "spec": {"slot": 7}}
        code, text = world.send(TOKEN, Request("PATCH", f"{path}/status", body, MERGE))
        assert code == 200, text
        after = world.get(path)
        assert {after["metadata"].get(key) == before["metadata"].get(key) for key in metadata} == {
            True
        }
        assert after["spec"] == before["spec"]


def test_devices_of_claim_are_received_and_others_stay(world: World, connect: Connect) -> None:
    api = DraApi(connect(TOKEN))
    claim = api.get_claim(TEAM, "mine")
    ref = ClaimRef(TEAM, "mine", ClaimUID(claim["metadata"]["uid"]))
    device = PreparedDevice(request="gpu", pool=OWN, device="dev-0", cdi_ids=("a/b=c",))
    status = ClaimStatusWriter(api, GPU, CLOCK)
    status.prepared(ref, [device])
    assert status.outbox.write_next() == 0.0 and status.is_on and status.lost == 0
    after = api.get_claim(TEAM, "mine")
    body = status_writer.to_status(ref, [device], driver=GPU, at_s=time.time())
    patch = status_writer.to_patch(after, body, driver=GPU)
    options = WriteOptions(field_manager=f"nvdra-{GPU}")
    patched = api.patch_claim_status(patch, options=options)
    for found in (after, patched):
        entries = {(one["driver"], one["pool"]) for one in found["status"]["devices"]}
        assert entries >= {(GPU, OWN), (NIC, OWN)}
        assert [one for one in found["status"]["devices"] if one["driver"] != GPU] == claim["status"]["devices"]  # fmt: skip


def test_waiting_is_received_as_event_of_pod(world: World, connect: Connect) -> None:
    client = connect(TOKEN)
    api = DraApi(client)
    claim = client.get(CLAIMS, "mine", namespace=TEAM)
    waiting = WaitEvents(api, client, EventSource(f"nvdra-{GPU}", OWN), CLOCK)
    waiting.waiting(ClaimRef(TEAM, "mine", ClaimUID(claim["metadata"]["uid"])), "cold", MIN_WAIT_S)
    waiting.outbox.write_next()
    events = world.get(EVENTS.path(namespace=TEAM))["items"]
    assert "claim mine is not prepared yet: cold" in [event["message"] for event in events]


@pytest.mark.parametrize("causes", [("no toolkit",), ()])
def test_state_of_node_is_received_as_event(world: World, connect: Connect, causes: tuple[str, ...]) -> None:  # fmt: skip
    body = node_events.to_event(EventSource(f"nvdra-{GPU}", OWN), causes, time.time())
    made = connect(TOKEN).create(EVENTS, body)
    events = world.get(EVENTS.path(namespace="default"))["items"]
    assert made["metadata"]["name"] in [event["metadata"]["name"] for event in events]


def test_token_of_week_is_renewed_for_week(world: World, connect: Connect, tmp_path: Path) -> None:  # fmt: skip
    path = tmp_path / "token"
    path.write_text(world.token(OWN, WEEK_H))
    before = token.parse(path.read_text().strip())
    clock = FakeClock(time.time() + before.life_s / 2)
    assert "can be renewed" in Renewal(path, lambda: connect(TOKEN), HostFiles(), CLOCK).check()
    said = Renewal(path, lambda: connect(TOKEN), HostFiles(), clock).run()
    assert "renewed" in said
    after = token.parse(path.read_text().strip())
    assert (after.node_uid, after.life_s) == (before.node_uid, before.life_s)


def test_kubelets_get_no_right_unless_it_is_asked_for(world: World) -> None:
    patch = Request("PATCH", f"{FABRIC_PATH}/{OWN}/status", {"status": {"bootID": "x"}}, MERGE)
    attempts = (patch, Request("GET", FABRIC_PATH), Request("GET", f"{FABRIC_PATH}/{OWN}"))

    def refused() -> bool:
        return [world.send(KUBELET, one)[0] for one in attempts] == [403, 403, 403]

    world.install({})
    try:
        wait_until("a kubelet is refused", refused, timeout_s=10)
        assert world.send(TOKEN, patch)[0] == 200
    finally:
        world.install({"node": {"allowKubeletCredential": True}})


POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
SERVED = {"resource.k8s.io": ("v1", "v1beta2", "v1beta1"), "fabric.nvdra.io": ("v1alpha1",)}


@pytest.mark.parametrize("minor", [pytest.param(m, marks=needs_cluster(m, has_nodes=False)) for m in KUBERNETES])  # fmt: skip
def test_policies_have_right_types_in_each_version(minor: str, tmp_path: Path) -> None:
    """Types are not looked at for API versions by a wildcard: so a copy of each policy is, for each version by name."""
    with a_world(f"types-{minor.replace('.', '-')}", tmp_path, minor) as world:
        found = [
            p for p in world.get(POLICIES)["items"] if p["metadata"]["name"].startswith("nvdra-")
        ]
        groups = {
            copy["metadata"]["name"]: group for policy in found for group, copy in copies(policy)
        }
        for policy in found:
            for _, copy in copies(policy):
                world.create(POLICIES, copy)
        assert len(groups) >= len(found) == 7
        assert {name: said for name, group in groups.items() if (said := warnings(world, name, group))} == {}  # fmt: skip


def copies(policy: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The policy for each version of each resource; with the API group."""
    for rule in policy["spec"]["matchConstraints"]["resourceRules"]:
        [group] = rule["apiGroups"]
        for version in SERVED.get(group, ("v1",)):
            resource = rule["resources"][0].replace("/", "-")
            name = f"{policy['metadata']['name']}-{resource}-{version}"
            constraints = {"resourceRules": [{**rule, "apiVersions": [version]}]}
            yield group, {
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
                "metadata": {"name": name}, "spec": {**policy["spec"], "matchConstraints": constraints},
            }  # fmt: skip


def warnings(world: World, name: str, group: str) -> list[str]:
    """What the API server says of the types in a policy. For the core group it also tries kinds of other groups."""
    path = f"{POLICIES}/{name}"

    def is_checked() -> bool:
        return "observedGeneration" in world.get(path).get("status", {})

    wait_until(f"types of {name} are checked", is_checked, timeout_s=30)
    said = world.get(path)["status"].get("typeChecking", {}).get("expressionWarnings", ())
    texts: list[str] = [one["warning"] for one in said]
    return [text for text in texts if re.search(rf"(^|\n){re.escape(group)}/", text)]


def test_token_that_could_not_be_renewed_is_found_at_once(world: World, connect: Connect, tmp_path: Path) -> None:  # fmt: skip
    """One that an administrator made for longer than the policy lets nodes have."""
    path = tmp_path / "token"
    path.write_text(world.token(OWN, WEEK_H + 1))
    with pytest.raises(ApiError, match=r"node\.tokenMaxHours"):
        Renewal(path, lambda: connect(TOKEN), HostFiles(), CLOCK).check()
