"""What a node offers, and how it says that it is not well."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from nvdra_node.computedomain import slices
from nvdra_node.computedomain.model import DomainState, NodeView
from nvdra_node.kubeletplugin.driver import Health
from tests.unit.computedomain.examples import VIEW


def build(view, *, is_shared=False):
    return slices.build(view, is_shared=is_shared)


def test_the_channel_has_upstreams_name_and_attributes_and_the_clique_besides():
    [device] = build(VIEW).devices
    assert device["name"] == "channel-0"
    assert device["attributes"] == {
        "type": {"string": "channel"},
        "id": {"int": 0},
        "cliqueID": {"string": VIEW.clique_id},
        "clusterUUID": {"string": VIEW.cluster_uuid},
    }
    assert all(len(v.get("string", "").encode()) <= 64 for v in device["attributes"].values())


def test_a_node_without_fabric_offers_exactly_upstreams_device():
    [device] = build(NodeView(fabric_state="NotSupported")).devices
    assert device == {
        "name": "channel-0",
        "attributes": {"type": {"string": "channel"}, "id": {"int": 0}},
    }


@pytest.mark.parametrize("state", ["", "InProgress", "Failed"])
def test_nothing_is_offered_while_it_could_not_be_served(state):
    assert build(NodeView(fabric_state=state)).devices == ()


def test_several_claims_may_share_it_when_that_is_set():
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
def test_health_is_what_a_pod_that_has_the_channel_would_care_for(view, health):
    [found] = build(view).health
    assert (found.device, found.health) == ("channel-0", health)
