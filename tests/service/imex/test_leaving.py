"""A node that leaves a domain repeats its report until it is written. (CD-L15)

Upstream's daemon tries once, at its end: after a conflict or without the API server its entry stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nvdra_core.api.fabric import FabricDomainStatus, FabricNodeStatus
from nvdra_core.kube.resources import FABRIC_NODES
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.imex.report.writer import RETRY_S, StatusWriter
from nvdra_node.kube.client import Client
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.server import FakeApiServer
from tests.fakes.clock import FakeClock
from tests.lib.objects import obj

NODE = "node"
MEMBER = FabricNodeStatus(boot_id="b", domains=(FabricDomainStatus(uid="d", ready=True),))
LONGEST_PAUSE_S = max(RETRY_S)
LEFT = FabricNodeStatus(boot_id="b")


class Node:
    """Writes ``status``; ``restart`` is another process without memory of the first."""

    def __init__(self, server: FakeApiServer) -> None:
        self.server = server
        self.client = Client(server.config())
        self.clock = FakeClock()
        self.status = MEMBER
        self.restart()

    def restart(self) -> None:
        self.writer = StatusWriter(
            self.client, FABRIC_NODES, NODE, lambda: (self.status, 10.0), self.clock
        )

    def write(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.advance(self.writer.write_if_due())

    def refuse(self, code: int, count: int) -> None:
        self.server.api.faults.add(Fault(resource="fabricnodes/status", code=code, count=count))

    def reported_domains(self) -> list[Any]:
        found = self.client.get(FABRIC_NODES, NODE, deadline=Deadline(5, SystemClock()))
        return [domain["uid"] for domain in found["status"].get("domains", [])]


@pytest.fixture
def node() -> Iterator[Node]:
    with FakeApiServer() as server:
        server.add({**obj("FabricNode", NODE), "spec": {},
        })  # fmt: skip
        made = Node(server)
        made.write()
        assert made.reported_domains() == ["d"]
        yield made
        made.client.close()


@pytest.mark.parametrize("code", [409, 500, 403])
def test_refused_report_is_repeated(node, code):
    node.status = LEFT
    node.refuse(code, count=0)
    began_s = node.clock.monotonic()
    node.write(20)
    assert node.reported_domains() == ["d"]
    assert node.clock.monotonic() - began_s <= 20 * LONGEST_PAUSE_S
    node.server.api.faults.clear()
    node.write()
    assert node.reported_domains() == []


def test_report_is_repeated_by_the_next_process(node):
    node.status = LEFT
    node.refuse(500, count=0)
    node.write(2)
    node.server.api.faults.clear()
    node.restart()
    node.write()
    assert node.reported_domains() == []
