"""The clique label on a fake API server; tests/service/realapi has it with the permissions of a real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nvdra_core.kube.resources import NODES
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.computedomain.clique_label import AUDIT_S, LABEL, CliqueLabelWriter
from nvdra_node.computedomain.model import NodeView
from nvdra_node.kube.client import Client
from tests.fakes.apiserver.server import FakeApiServer
from tests.fakes.clock import FakeClock

KNOWN = NodeView(fabric_state="Completed", clique_id="c.7")


class Labelled:
    """A Node and its label writer."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.clock = FakeClock()
        self.view = KNOWN
        self.writer = CliqueLabelWriter(client, "node", lambda: self.view, self.clock)

    def set_label(self, value: str | None) -> None:
        metadata = {"name": "node", "labels": {LABEL: value}}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        self.client.merge_patch(NODES, body, deadline=Deadline(10, SystemClock()))

    def label(self) -> str | None:
        self.writer.write_if_due()
        node = self.client.get(NODES, "node", deadline=Deadline(10, SystemClock()))
        found: str | None = (node["metadata"].get("labels") or {}).get(LABEL)
        return found


@pytest.fixture
def node() -> Iterator[Labelled]:
    with FakeApiServer() as server:
        server.add({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}})
        client = Client(server.config())
        yield Labelled(client)
        client.close()


def test_removed_clique_label_is_restored_by_the_audit(node):
    assert node.label() == "c.7"
    node.set_label(None)
    assert node.label() is None
    node.clock.advance(AUDIT_S)
    assert node.label() == "c.7"


def test_clique_label_stays_while_the_fabric_is_unknown(node):
    assert node.label() == "c.7"
    node.view = NodeView()
    assert node.label() == "c.7"
