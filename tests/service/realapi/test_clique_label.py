"""The clique label on a real API server: the node's own code writes it with each credential, and nothing else of a Node."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nvdra_core.kube.resources import NODES
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.computedomain.clique_label import LABEL, CliqueLabelWriter
from nvdra_node.computedomain.model import NodeView
from nvdra_node.kube.client import Client
from nvdra_node.kube.config import KubeConfig
from tests.beds.cluster.control import wire
from tests.beds.cluster.layout import SERVER
from tests.beds.cluster.marks import needs_cluster
from tests.beds.services.attackbed import (
    APPLY,
    KUBELET,
    MERGE,
    OTHER,
    OWN,
    TOKEN,
    Request,
    World,
    a_world,
)
from tests.lib.waits import wait_until

pytestmark = needs_cluster(timeout_s=300, has_nodes=False)

CLOCK = SystemClock()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with a_world("clique-label", tmp_path_factory.mktemp("world")) as made:
        made.install({"node": {"allowKubeletCredential": True, "cliqueLabel": True}})
        labelled = {"name": OWN, "labels": {"zone": "a"}}
        made.put({"apiVersion": "v1", "kind": "Node", "metadata": labelled})
        wait_until(
            "the policy is in force",
            lambda: "own Node only" in patch(made, OTHER, {})[1],
            timeout_s=60,
        )
        yield made


def patch(
    world: World, node: str, body: dict[str, Any], kind: str = MERGE, sub: str = ""
) -> tuple[int, str]:
    """With the node's own token; without a body the label that it may set."""
    body = body or {"metadata": {"labels": {LABEL: "c.9"}}}
    return world.send(TOKEN, Request("PATCH", f"/api/v1/nodes/{node}{sub}", body, kind))


@pytest.fixture
def connect(world: World) -> Iterator[Callable[[str], Client]]:
    clients: list[Client] = []
    layout = world.cluster.layout
    ca_file = str(layout.pki / "ca.crt")

    def made(by: str) -> Client:
        config = KubeConfig(server=SERVER, ca_file=ca_file, token=world.token(OWN))
        if by == KUBELET:
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


def label_of(client: Client) -> str | None:
    node = client.get(NODES, OWN, deadline=Deadline(10.0, CLOCK))
    found: str | None = (node["metadata"].get("labels") or {}).get(LABEL)
    return found


@pytest.mark.parametrize("by", [TOKEN, KUBELET])
def test_node_sets_changes_and_removes_its_label(connect: Callable[[str], Client], by: str) -> None:
    client = connect(by)
    for view, expected in (
        (NodeView(fabric_state="Completed", clique_id="c.7"), "c.7"),
        (NodeView(fabric_state="Completed", clique_id="c.8"), "c.8"),
        (NodeView(fabric_state="NotSupported"), None),
    ):
        CliqueLabelWriter(client, OWN, lambda view=view: view, CLOCK).write_if_due()  # type: ignore[misc]
        assert label_of(client) == expected


def test_label_makes_no_node_where_there_is_none(connect: Callable[[str], Client], world: World) -> None:  # fmt: skip
    view = NodeView(fabric_state="Completed", clique_id="c.7")
    CliqueLabelWriter(connect(KUBELET), "not-registered", lambda: view, CLOCK).write_if_due()
    assert "not-registered" not in world.cluster.kubectl("get", "nodes", "-o", "name")


def test_foreign_clique_label_is_left_alone(connect: Callable[[str], Client], world: World) -> None:
    world.cluster.kubectl("label", "node", OWN, f"{LABEL}=theirs")
    client, view = connect(TOKEN), NodeView(fabric_state="Completed", clique_id="c.7")
    CliqueLabelWriter(client, OWN, lambda: view, CLOCK).write_if_due()
    assert label_of(client) == "theirs"
    world.cluster.kubectl("label", "node", OWN, f"{LABEL}-")


TAINT = {"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}


@pytest.mark.parametrize(
    ("node", "body", "kind", "sub"),
    [
        (OTHER, {}, MERGE, ""),
        (OWN, {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}, MERGE, ""),
        (OWN, {"metadata": {"labels": {"zone": None}}}, MERGE, ""),
        (OWN, {"metadata": {"annotations": {"a": "b"}}}, MERGE, ""),
        (OWN, {"metadata": {"finalizers": ["example.com/stay"]}}, MERGE, ""),
        (OWN, TAINT, MERGE, ""),
        (OWN, {"spec": {"unschedulable": True}}, MERGE, ""),
        (OWN, {"apiVersion": "v1", "kind": "Node", **TAINT}, APPLY, "?fieldManager=x&force=true"),
        (OWN, {"status": {"capacity": {"example.com/gpu": "99"}}}, MERGE, "/status"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_everything_else_of_node_is_refused(
    world: World, node: str, body: dict[str, Any], kind: str, sub: str
) -> None:
    code, text = patch(world, node, body, kind, sub)
    assert code == 403, text
