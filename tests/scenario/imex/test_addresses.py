"""The host's addresses for IMEX peers, as they appear, change and vanish."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from nvdra_core.api.fabric import FabricNodeStatus
from nvdra_core.errors import ApiError
from nvdra_node.host.network import HostAddress, Network, Route
from nvdra_node.imex.sources.address_monitor import MAX_NODE_PAUSE_S, AddressMonitor, AddressSources
from tests.beds.memory.imex_node import LAYOUT, ImexNode, a_claim, a_domain

LOOPBACK = Route(source="127.0.0.1", targets=("127.0.0.1",))


class Host:
    """A host's network and its Node object."""

    def __init__(self) -> None:
        self.addresses = ["127.0.0.1", "10.0.0.2"]
        self.route = Route(source="10.0.0.2", targets=("10.0.0.100",))
        self.internal_ips = ["10.0.0.2"]
        self.is_readable = True
        self.reads = 0

    def network(self) -> Network:
        found = (HostAddress(interface="eth0", address=address) for address in self.addresses)
        return Network(addresses=tuple(found))

    def read_node(self) -> dict[str, Any]:
        self.reads += 1
        if not self.is_readable:
            raise ApiError("nodes is forbidden", status=403)
        addresses = [{"type": "InternalIP", "address": ip} for ip in self.internal_ips]
        return {"status": {"addresses": addresses}}

    def sources(self) -> AddressSources:
        return AddressSources(
            configured="", network=self.network, route=lambda: self.route, read_node=self.read_node
        )


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def node() -> ImexNode:
    made = ImexNode(address="")
    made.assign(a_domain())
    return made


def watch(node: ImexNode, host: Host) -> AddressMonitor:
    return AddressMonitor(host.sources(), node.clock, node.supervisor.set_addresses)


def status(node: ImexNode) -> FabricNodeStatus:
    node.reconcile()
    return node.status()


def test_usable_route_needs_no_request_to_the_api_server(node, host):
    watch(node, host).scan()
    assert node.join("c1").readiness.is_ready
    assert b"10.0.0.2" in node.files.read(LAYOUT.config)
    assert host.reads == 0
    assert status(node).address_message == "the source address towards the API server"


def test_balancer_on_the_node_waits_for_its_internal_ip(node, host):
    """Upstream gives every node 127.0.0.1, so that each daemon is READY without any peer."""
    host.route, host.is_readable = LOOPBACK, False
    monitor = watch(node, host)
    monitor.scan()
    reply = node.join("c1").readiness
    assert (reply.is_ready, reply.reason) == (False, "NoAddress")
    assert "403" in reply.message or "nodes is forbidden" in reply.message
    assert "imexAddress" in reply.message and "127.0.0.1 is loopback" in reply.message
    assert node.daemon.history == [] and status(node).addresses == ()
    host.is_readable = True
    node.clock.advance(MAX_NODE_PAUSE_S)
    monitor.scan()
    assert node.ask(a_claim("c1")).readiness.is_ready
    assert b"BIND_INTERFACE_IP=10.0.0.2" in node.files.read(LAYOUT.config)
    assert status(node).addresses == ("10.0.0.2",)


def test_useless_node_is_read_with_backoff(node, host):
    host.route, host.internal_ips = LOOPBACK, ["172.30.0.9"]
    monitor = watch(node, host)
    for _ in range(3600):
        monitor.scan()
        node.clock.advance(1.0)
    assert 3600 / MAX_NODE_PAUSE_S / 2 < host.reads < 3600 / MAX_NODE_PAUSE_S + 10
    host.internal_ips = ["10.0.0.2"]
    for _ in range(int(2 * MAX_NODE_PAUSE_S)):
        monitor.scan()
        node.clock.advance(1.0)
    assert node.supervisor.snapshot and node.join("c1").readiness.is_ready


def test_loopback_of_an_earlier_release_is_not_reported(host):
    """The API server would refuse each status of the node, and the controller consider it lost."""
    node = ImexNode(address="127.0.0.1")
    node.serve()
    assert b"BIND_INTERFACE_IP=127.0.0.1" in (node.files.read(LAYOUT.config) or b"")
    watch(node, host).scan()
    assert status(node).addresses == ("10.0.0.2",)
    assert node.daemon.history == ["start"]


def test_lost_address_is_reported_and_leaves_claims_alone(node, host):
    monitor = watch(node, host)
    monitor.scan()
    node.join("c1")
    host.addresses, host.route = (
        ["10.0.0.9"],
        replace(host.route, source="10.0.0.9"),
    )
    monitor.scan()
    found = status(node)
    assert found.addresses == ("10.0.0.9",)
    [domain] = found.domains
    assert (domain.ready, domain.reason) == (False, "AddressLost")
    assert "10.0.0.2" in domain.message and "ns/claim-c1" in domain.message
    assert node.daemon.history == ["start"]
    node.claims.leave("c1")
    assert node.join("c2").readiness.is_ready
    assert node.daemon.history == ["start", "stop", "start"]
    assert b"BIND_INTERFACE_IP=10.0.0.9" in node.files.read(LAYOUT.config)


def test_running_daemon_is_reported_where_it_listens(node, host):
    monitor = watch(node, host)
    monitor.scan()
    node.join("c1")
    node.restart()
    host.addresses.append("10.0.0.3")
    host.route = replace(host.route, source="10.0.0.3")
    watch(node, host).scan()
    assert status(node).addresses == ("10.0.0.2", "10.0.0.3")
    assert node.ask(a_claim("c1")).readiness.is_ready


def test_address_that_comes_back_makes_the_domain_ready_again(node, host):
    monitor = watch(node, host)
    monitor.scan()
    node.join("c1")
    host.addresses = ["127.0.0.1"]
    host.route = Route()
    monitor.scan()
    assert status(node).domains[0].reason == "NoAddress"
    assert status(node).addresses == ()
    host.addresses, host.route = ["10.0.0.2"], Route(source="10.0.0.2")
    monitor.scan()
    assert status(node).domains[0].ready
    assert node.daemon.history == ["start"]
