"""Readiness: only what the node says of the IMEX that runs now counts, and only while the node lives."""

from __future__ import annotations

import pytest

from nvdra_cluster.decide.domain import readiness
from nvdra_cluster.decide.model import FabricView, MemberView
from nvdra_core.api import FabricState
from tests.unit.decide.views import (
    BY_CHANNEL,
    BY_HOST,
    SETTINGS,
    a_fabric_node,
    a_member,
    a_ready_node,
    a_report,
    a_run,
)


def reason(member: MemberView) -> str:
    found = readiness.judge(member, "u1", SETTINGS)
    assert not found.is_ready
    return found.reason


def with_status(**status: object) -> FabricView:
    known = {"imex": a_run(0), "domains": (a_report(),)}
    return a_fabric_node(slot=0, status={**known, **status})


def test_report_of_run_that_serves_domain_is_ready():
    assert readiness.judge(a_member(), "u1", SETTINGS) == readiness.Readiness(True)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"has_node": False}, readiness.NODE_GONE),
        ({"fabric": None}, readiness.NO_AGENT),
        ({"is_full": True}, readiness.CLIQUE_FULL),
        ({"is_lost": True}, readiness.NODE_LOST),
        ({"fabric": a_fabric_node(slot=0)}, readiness.NOT_REPORTED),
    ],
)
def test_ready_report_does_not_outlive_its_node(fields, expected):
    assert reason(a_member(**fields)) == expected


@pytest.mark.parametrize(
    "status",
    [{"imex": a_run(0, boot="boot-0")}, {"imex": a_run(3)}, {"imex": a_run(0, domain="u2")}],
    ids=["before the reboot", "another slot", "another domain"],
)
def test_report_of_another_run_is_stale(status):
    assert reason(a_member(with_status(**status))) == readiness.STALE_REPORT


def test_nodes_own_reason_is_handed_on():
    view = with_status(domains=(a_report(ready=False, reason="ImexStarting", message="INIT_GPU"),))
    assert readiness.judge(a_member(view), "u1", SETTINGS) == readiness.Readiness(
        False, "ImexStarting", "INIT_GPU"
    )


def test_failed_fabric_is_not_ready_whatever_imex_says():
    view = with_status(fabric_state=FabricState.FAILED, fabric_message="GPU 2")
    found = readiness.judge(a_member(view), "u1", SETTINGS)
    assert (found.reason, found.message, found.is_degraded) == ("FabricFailed", "GPU 2", True)


def test_node_without_fabric_is_ready_when_it_says_so():
    view = a_fabric_node(clique="", status={"domains": (a_report(),)})
    assert readiness.judge(a_member(view), "u1", SETTINGS).is_ready


def test_with_isolation_channel_one_run_serves_all_domains():
    view = with_status(imex=a_run(0, domain=""))
    assert readiness.judge(a_member(view), "u1", BY_CHANNEL).is_ready


def test_imex_of_host_has_no_run_of_ours():
    view = a_fabric_node(status={"domains": (a_report(),)})
    assert readiness.judge(a_member(view), "u1", BY_HOST).is_ready


def test_ready_with_missing_peers_is_ready_and_degraded():
    found = readiness.judge(a_member(a_ready_node(reason="PeersMissing")), "u1", SETTINGS)
    assert (found.is_ready, found.is_degraded) == (True, True)


def test_node_starting_is_not_degraded():
    view = with_status(domains=(a_report(ready=False, reason="ImexStarting"),))
    assert not readiness.judge(a_member(view), "u1", SETTINGS).is_degraded


def test_node_whose_driver_lacks_channel_is_not_ready():
    """It reports few channels, rightly or not: that is its own harm alone."""
    member = a_member(with_status(channel_count=4))
    assert readiness.judge(member, "u1", BY_CHANNEL, 3).is_ready
    found = readiness.judge(member, "u1", BY_CHANNEL, 4)
    assert (found.is_ready, found.is_degraded) == (False, True)
    assert "channel 4" in found.message
    assert "NVreg_ImexChannelCount" in found.message
