"""What is read from objects of other releases, or of people: as much as makes sense, and never an exception."""

from __future__ import annotations

from typing import Any

from nvdra_cluster.control import wire
from tests.unit.cluster.views import CLIQUE

HELD = {"namespace": "team", "name": "c", "uid": "uid-c"}


def a_node(**status: Any) -> dict[str, Any]:
    told = {"bootID": "b", "cliqueID": CLIQUE, "domains": [{"uid": "u1", "claims": [HELD]}]}
    return {"metadata": {"name": "tray-a", "uid": "n1"}, "status": {**told, **status}}


def test_a_word_of_a_later_release_costs_that_field_and_not_the_claims_of_the_node():
    """Or its domains could be deleted under running pods while nodes are a release ahead."""
    odd = {"state": "A_STATE_OF_TOMORROW", "restarts": 3}
    view = wire.fabric(a_node(imex=odd, channelCount="many", fabricState="Curious"))
    assert [claim.uid for claim in view.status.domains[0].claims] == ["uid-c"]
    assert (view.status.boot_id, view.status.clique_id) == ("b", CLIQUE)
    assert view.status.imex.incarnation is None


def test_a_part_that_is_no_object_reads_as_not_written():
    assert wire.fabric({**a_node(), "status": ["odd"]}).status.domains == ()


def test_an_odd_condition_does_not_hide_the_numbers_of_a_domain():
    assignment = {"isolation": "domain", "port": 24001, "channel": 0}
    status = {"status": "Perhaps", "assignment": assignment}
    metadata = {"name": "train", "namespace": "team", "uid": "u1"}
    found = wire.domain({"metadata": metadata, "status": status}).status.assignment
    assert found is not None
    assert found.port == 24001
