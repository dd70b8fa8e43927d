"""The published channel and its health."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from nvdra_node.computedomain import slices
from nvdra_node.computedomain.model import DomainState, NodeView
from nvdra_node.kubeletplugin.driver import Health
from tests.unit.computedomain.examples import VIEW


def build(view, *, is_shared=False):
    return slices.build(view, is_shared=is_shared)


def test_channel_has_upstreams_attributes_and_the_clique():
    [device] = build(VIEW).devices
    assert device["name"] == "channel-0"
    assert device["attributes"] == {
        "type": {"string": "channel"},
        "id": {"int": 0},
        "cliqueID": {"string": VIEW.clique_id},
        "clusterUUID": {"string": VIEW.cluster_uuid},
    }
    assert all(len(v.get("string", "").encode()) <= 64 for v in device["attributes"].values())


def test_node_without_fabric_publishes_upstreams_device():
    [device] = build(NodeView(fabric_state="NotSupported")).devices
    assert device == {
        "name": "channel-0",
        "attributes": {"type": {"string": "channel"}, "id": {"int": 0}},
    }


@pytest.mark.parametrize("state", ["", "InProgress", "Failed"])
def test_nothing_is_published_until_the_fabric_is_settled(state):
    assert build(NodeView(fabric_state=state)).devices == ()


def test_shared_channel_allows_multiple_allocations():
    assert build(VIEW, is_shared=True).devices[0]["allowMultipleAllocations"] is True


@pytest.mark.parametrize(
    ("view", "health"),
    [
        (VIEW, Health.HEALTHY),
        (NodeView(), Health.UNKNOWN),
        (
            replace(VIEW, fabric_state="Failed", fabric_message="GPU-1"),
            Health.UNHEALTHY,
        ),
        (
            replace(VIEW, domains={"A": DomainState(isolation="domain", reason="ImexFailed")}),
            Health.UNHEALTHY,
        ),
        (
            replace(VIEW, domains={"A": DomainState(isolation="domain", reason="ImexRestarted")}),
            Health.UNHEALTHY,
        ),
        (
            replace(VIEW, domains={"A": DomainState(isolation="domain", reason="AddressLost")}),
            Health.UNHEALTHY,
        ),
        (
            replace(VIEW, domains={"A": DomainState(isolation="domain", reason="ImexStarting")}),
            Health.HEALTHY,
        ),
    ],
)
def test_health_follows_fabric_and_domain_reasons(view, health):
    [found] = build(view).health
    assert (found.device, found.health) == ("channel-0", health)
