"""What is read from objects of other releases, or of people: as much as makes sense, and never an exception."""

from __future__ import annotations

from typing import Any

from nvdra_cluster.control.state import decode
from tests.unit.decide.views import CLIQUE

HELD = {"namespace": "team", "name": "c", "uid": "uid-c"}


def a_node(**status: Any) -> dict[str, Any]:
    reported = {"bootID": "b", "cliqueID": CLIQUE, "domains": [{"uid": "u1", "claims": [HELD]}]}
    return {"metadata": {"name": "tray-a", "uid": "n1"}, "status": {**reported, **status}}


def test_unknown_status_value_drops_only_that_field():
    """Or its domains could be deleted under running pods while nodes are a release ahead."""
    odd = {"state": "A_STATE_OF_TOMORROW", "restarts": 3}
    view = decode.fabric(a_node(imex=odd, channelCount="many", fabricState="Curious"))
    assert [claim.uid for claim in view.status.domains[0].claims] == ["uid-c"]
    assert (view.status.boot_id, view.status.clique_id) == ("b", CLIQUE)
    assert view.status.imex.incarnation is None


def test_part_no_object_reads_as_not_written():
    assert decode.fabric({**a_node(), "status": ["odd"]}).status.domains == ()


def test_odd_condition_does_not_hide_numbers_of_domain():
    assignment = {"isolation": "domain", "port": 24001, "channel": 0}
    status = {"status": "Perhaps", "assignment": assignment}
    metadata = {"name": "train", "namespace": "team", "uid": "u1"}
    found = decode.domain({"metadata": metadata, "status": status}).status.assignment
    assert found is not None
    assert found.port == 24001


def test_unusable_addresses_are_left_out():
    """They come from the node, and stand in the hosts files of its peers."""
    odd = [
        "127.0.0.1",
        "10.0.0.1\n10.6.6.6\timex-x-0002",
        "tray-b",
        "fe80::1",
        "10.0.0.2",
        "fd00::2",
    ]
    assert decode.fabric(a_node(addresses=odd)).status.addresses == ("10.0.0.2", "fd00::2")


def test_report_without_bound_is_cut():
    claims = [{**HELD, "uid": f"c{number}"} for number in range(200)]
    reports = [{"uid": f"u{number}", "claims": claims} for number in range(2000)]
    found = decode.fabric(a_node(domains=reports)).status.domains
    assert len(found) == decode.MAX_REPORTS
    assert sum(len(report.claims) for report in found) == decode.MAX_CLAIMS


def test_parameters_no_object_name_no_domain():
    """A user's template or claim, which the controller reads when it has the name of one of ours."""
    for parameters in (["no", "object"], "text", 3, None):
        opaque = {"driver": "compute-domain.nvidia.com", "parameters": parameters}
        config = {"devices": {"config": [{"opaque": opaque}]}}
        assert decode.claimed_domain({"status": {"allocation": config}}) == ""
        metadata = {"name": "t", "namespace": "team", "uid": "t1"}
        assert decode.template({"metadata": metadata, "spec": {"spec": config}}).domain_uid == ""


CHANNEL = {"driver": "compute-domain.nvidia.com", "pool": "a", "device": "channel-0"}


def allocated(*results: dict[str, Any], on: list[str] | None) -> str:
    """The node of a claim with these results; ``on``: the nodes that its selector names."""
    allocation: dict[str, Any] = {"devices": {"results": list(results)}}
    if on is not None:
        here = {"key": "metadata.name", "operator": "In", "values": on}
        allocation["nodeSelector"] = {"nodeSelectorTerms": [{"matchFields": [here]}]}
    metadata = {"name": "c", "namespace": "team", "uid": "u"}
    return decode.claim({"metadata": metadata, "status": {"allocation": allocation}}).node


def test_claim_is_on_node_that_scheduler_pinned_it_to():
    assert allocated(CHANNEL, on=["a"]) == "a"
    gpu = {"driver": "gpu.nvidia.com", "pool": "a", "device": "gpu-0"}
    assert allocated(gpu, CHANNEL, on=["a"]) == "a"


def test_claim_from_pool_named_after_another_node_is_on_none():
    """A node names its pools; only the scheduler says where a claim is."""
    assert allocated(CHANNEL, on=["b"]) == ""
    assert allocated(CHANNEL, {**CHANNEL, "pool": "b"}, on=["a"]) == ""


def test_claim_pinned_to_no_node_is_on_none():
    assert allocated(CHANNEL, on=None) == ""
    assert allocated(CHANNEL, on=["a", "b"]) == ""
    assert allocated(CHANNEL, on=[]) == ""


def test_claim_without_channel_of_ours_is_on_none():
    assert allocated({**CHANNEL, "driver": "gpu.nvidia.com"}, on=["a"]) == ""
    assert allocated({**CHANNEL, "device": "gpu-0"}, on=["a"]) == ""
