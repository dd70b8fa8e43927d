"""ComputeDomain objects: their parts as the controller and the webhook read them."""

from typing import Any

import msgspec
import pytest

from nvdra_core import api
from nvdra_core.errors import InvalidConfigError


def a_spec(**fields: Any) -> dict[str, Any]:
    return {"channel": {"resourceClaimTemplate": {"name": "my-channel"}}, **fields}


def read(spec: Any, *, strict: bool = True) -> api.ComputeDomainSpec:
    decoded = api.decode_part(
        spec, api.ComputeDomainSpec, where="ComputeDomain ns/a", strict=strict
    )
    api.validate_compute_domain(decoded, where="ComputeDomain ns/a")
    return decoded


def test_minimal_spec_has_upstream_defaults():
    spec = read(a_spec())
    assert (spec.num_nodes, spec.channel.resource_claim_template.name) == (0, "my-channel")


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (None, "$"), ({}, "$.channel"), ({"channel": None}, "$.channel"), ({"channel": {}}, "$.channel.resourceClaimTemplate"),
        (a_spec(numNodes=-1), "$.spec.numNodes"), (a_spec(numNodes="2"), "$.numNodes"), (a_spec(nodes=2), "$"),
        ({"channel": {"resourceClaimTemplate": {"name": ""}}}, "$.spec.channel.resourceClaimTemplate.name"),
        ({"channel": {"resourceClaimTemplate": {"name": "A_b"}}}, "$.spec.channel.resourceClaimTemplate.name"),
    ],
)  # fmt: skip
def test_unservable_spec_is_refused_with_its_path(spec, path):
    with pytest.raises(InvalidConfigError) as caught:
        read(spec)
    assert str(caught.value).startswith(f"ComputeDomain ns/a: {path}: ")


def test_later_fields_are_accepted_by_the_controller():
    assert read(a_spec(later=1), strict=False) == read(a_spec())


def test_status_is_written_with_zero_index_and_every_field():
    node = api.ComputeDomainNode(
        name="n1", ip_address="10.0.0.1", clique_id="c.1", status=api.ComputeDomainState.READY
    )
    status = api.ComputeDomainStatus(status=api.ComputeDomainState.READY, nodes=(node,))
    written = msgspec.to_builtins(status)
    assert written["nodes"][0] == {
        "name": "n1",
        "ipAddress": "10.0.0.1",
        "cliqueID": "c.1",
        "index": 0,
        "status": "Ready",
    }
    as_json = msgspec.json.decode(msgspec.json.encode(status))
    assert api.decode_part(as_json, api.ComputeDomainStatus, where="w", strict=True) == status


def test_clique_lists_its_daemons():
    written = {
        "daemons": [{"nodeName": "n1", "ipAddress": "10.0.0.1", "cliqueID": "c.1", "index": 3}]
    }
    clique = api.decode_part(written, api.ComputeDomainClique, where="w", strict=True)
    assert clique.daemons[0].status is api.ComputeDomainState.NOT_READY
    with pytest.raises(
        InvalidConfigError, match=r"\$\.daemons\[0\]\.index: expected a whole number"
    ):
        api.decode_part(
            {"daemons": [written["daemons"][0] | {"index": "3"}]},
            api.ComputeDomainClique,
            where="w",
            strict=True,
        )
