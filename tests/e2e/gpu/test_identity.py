"""With the kubelet's credential: the service makes only documented requests, and others are refused."""

from __future__ import annotations

import collections
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pytest

from tests.beds.cluster.api import ApiClient
from tests.beds.cluster.driver import audit
from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver.gpu_bed import TOP, Bed, GpuNode
from tests.beds.cluster.driver.pods import Pods, ignoring_outages
from tests.lib.waits import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

SWEEP_S = 3.0
BED = {
    "nodes": 2,
    "audit": True,
    "flags": (
        "--rescan-interval-seconds", "2",
        "--driver-poll-seconds", "0.5",
        "--sweep-interval-seconds", f"{SWEEP_S:g}",
    ),
}  # fmt: skip

OWN, OTHER = "node-1", "node-2"
SECURITY = TOP / "docs" / "user" / "security.md"
RESOURCE_API = "/apis/resource.k8s.io"
SLICES = f"{RESOURCE_API}/v1/resourceslices"


def documented() -> set[tuple[str, str]]:
    """Verb and resource, as the table of the kubelet's credential has them."""
    page = SECURITY.read_text().partition("\n### A credential of the node's own\n")[0]
    rows = re.findall(r"^\| ([a-z, ]+) \| `([^`]+)`(?:, `([^`]+)`)?[^|]* \|", page, re.M)
    found = set()
    for verbs, *resources in rows:
        for resource in filter(None, resources):
            # A path as it is, a resource without the name behind it.
            what = resource if resource.startswith("/") else resource.partition("/<")[0]
            found |= {(verb, what) for verb in verbs.split(", ")}
    return found


def test_service_uses_exactly_the_documented_rights(bed: Bed, pods: Pods) -> None:
    run_through_everything(bed, pods)
    asked = audit.requests_of_node(bed.cluster.layout.audit_log, OWN)
    refused = [a for a in asked if a.code == 403]
    print(collections.Counter(f"{a.verb} {a.resource} {a.code}" for a in asked))
    used, allowed = {(a.verb, a.resource) for a in asked if a not in refused}, documented()
    assert used <= allowed
    assert {unused for unused in allowed - used if not is_path(unused)} == set()
    # A restarted API server may refuse requests until it has read its RBAC rules.
    assert {(a.verb, a.resource) for a in refused} <= {
        ("patch", "resourceclaims/status"),
        ("get", "resourceclaims"),
        ("get", "/apis/resource.k8s.io"),
    }
    of_status = [a for a in refused if a.resource == "resourceclaims/status"]
    assert 1 <= len(of_status) <= 2, "asked for once by each of the two services that ran"
    failed = [a for a in asked if a.code >= 400 and a not in refused]
    assert all(a.code in (404, 409) for a in failed), failed


def is_path(right: tuple[str, str]) -> bool:
    """Whether a right is about a path, not a resource; such requests are rare."""
    return right[1].startswith("/")


def run_through_everything(bed: Bed, pods: Pods) -> None:
    """Publish, prepare, restart, lose a GPU and the API server, unprepare, and be uninstalled."""
    node = bed.nodes[OWN]
    pods.create(m.pod(pods.place, "pod", templates={"gpu": "gpu"}, node=OWN))
    bed.wait_running(pods.place, "pod")
    mark = node.log_size()
    node.restart()
    node.wait_registered(mark)
    node.sim.lose(7)
    wait_until("seven GPUs published", lambda: len(bed.devices(OWN)) == 7, 60)
    bed.cluster.restart("apiserver")
    node.sim.find(7)
    has_all = ignoring_outages(lambda: len(bed.devices(OWN)) == 8)
    wait_until("eight GPUs published", has_all, 60)
    pods.create(m.pod(pods.place, "next", templates={"gpu": "gpu"}, node=OWN))
    bed.wait_running(pods.place, "next")
    for name in ("pod", "next"):
        pods.delete(name)
        pods.wait_deleted(name)
    node.stop()
    withdraw(node)
    assert not bed.devices(OWN)
    node.start()
    wait_until("eight GPUs published", lambda: len(bed.devices(OWN)) == 8, 60)


def withdraw(node: GpuNode) -> None:
    """What an uninstall runs."""
    argv = [*node.argv()]
    argv[argv.index("gpu")] = "withdraw"
    assert argv[0] == sys.executable
    node.node.run(argv, env={"PYTHONPATH": str(TOP)})


def test_requests_are_limited_to_own_node(bed: Bed, pods: Pods) -> None:
    for node in (OWN, OTHER):
        pods.create(m.pod(pods.place, node, templates={"gpu": "gpu"}, node=node))
    bed.wait_running(pods.place, OWN, OTHER)
    for node in (OWN, OTHER):
        asked = audit.requests_of_node(bed.cluster.layout.audit_log, node)
        slices = {s["metadata"]["name"] for s in bed.slices() if s["spec"]["nodeName"] == node}
        claim = pods.claim_of(node)["metadata"]["name"]
        assert {a.name for a in asked if a.resource == "nodes"} == {node}
        selected = [unquote(a.uri) for a in asked if a.verb in ("list", "watch")]
        assert selected and all(f"spec.nodeName={node}" in uri for uri in selected)
        assert (
            slices <= {a.name for a in asked if a.resource == "resourceslices" and a.name} | slices
        )
        here = {a.name for a in asked if a.namespace == pods.place}
        assert here == {claim}


@dataclass(frozen=True)
class Attempt:
    """A request with the credential of node-1 that must be refused."""

    method: str
    path: str
    body: Any = None
    content_type: str = "application/json"


MERGE = "application/merge-patch+json"


def a_slice(version: str = "v1", **selection: Any) -> Any:
    """A slice of ours that selects its nodes in some way."""
    spec = {
        "driver": "gpu.nvidia.com",
        "pool": {"name": OTHER, "generation": 99, "resourceSliceCount": 1},
        "devices": [{"name": "gpu-0", **({"basic": {}} if version == "v1beta1" else {})}],
        **selection,
    }
    return {
        "apiVersion": f"resource.k8s.io/{version}",
        "kind": "ResourceSlice",
        "metadata": {"generateName": "attempt-"},
        "spec": spec,
    }


EVERYWHERE = {
    "nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [OTHER]}]}
    ]
}


def of_slices(theirs: Any) -> Iterator[Attempt]:
    """At slices of another node, in all versions, and at slices of no node or of all."""
    name = theirs["metadata"]["name"]
    for version in ("v1", "v1beta2", "v1beta1"):
        slices = f"{RESOURCE_API}/{version}/resourceslices"
        yield Attempt("GET", f"{slices}/{name}")
        yield Attempt("DELETE", f"{slices}/{name}")
        yield Attempt("PATCH", f"{slices}/{name}", {"metadata": {"labels": {"a": "b"}}}, MERGE)
        yield Attempt("GET", slices)
        yield Attempt("GET", f"{slices}?watch=true&timeoutSeconds=1")
        yield Attempt("GET", f"{slices}?fieldSelector=spec.nodeName%3D{OTHER}")
        yield Attempt("DELETE", f"{slices}?fieldSelector=spec.nodeName%3D{OTHER}")
        for selection in ({"nodeName": OTHER}, {"allNodes": True}, {"nodeSelector": EVERYWHERE}):
            yield Attempt("POST", slices, a_slice(version, **selection))
    yield Attempt("PUT", f"{SLICES}/{name}", theirs)


def of_claims(place: str, own: str, theirs: str) -> Iterator[Attempt]:
    """At claims: those of another node's pods, lists, and any write."""
    claims = f"{RESOURCE_API}/v1/namespaces/{place}/resourceclaims"
    yield Attempt("GET", f"{claims}/{theirs}")
    yield Attempt("GET", f"{claims}/no-such-claim")
    yield Attempt("GET", claims)
    yield Attempt("GET", f"{RESOURCE_API}/v1/resourceclaims")
    yield Attempt("DELETE", f"{claims}/{own}")
    for name in (own, theirs):
        yield Attempt("PATCH", f"{claims}/{name}", {"metadata": {"labels": {"a": "b"}}}, MERGE)
        yield Attempt("PATCH", f"{claims}/{name}/status", {"status": {"devices": []}}, MERGE)


def of_secrets(place: str) -> Iterator[Attempt]:
    """At secrets, configuration and tokens of others."""
    for namespace in (place, "kube-system"):
        core = f"/api/v1/namespaces/{namespace}"
        yield Attempt("GET", f"{core}/secrets")
        yield Attempt("GET", f"{core}/secrets/theirs")
        yield Attempt("GET", f"{core}/configmaps/theirs")
        token = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        yield Attempt("POST", f"{core}/serviceaccounts/default/token", token)
    yield Attempt("GET", "/api/v1/secrets")


def of_the_cluster(place: str) -> Iterator[Attempt]:
    """At the other node, its pods and its lease, and at the cluster's own objects."""
    label = {"metadata": {"labels": {"a": "b"}}}
    yield Attempt("GET", f"/api/v1/nodes/{OTHER}")
    yield Attempt("PATCH", f"/api/v1/nodes/{OTHER}", label, MERGE)
    yield Attempt("PATCH", f"/api/v1/nodes/{OTHER}/status", {"status": {}}, MERGE)
    yield Attempt("GET", f"/api/v1/namespaces/{place}/pods/{OTHER}")
    yield Attempt("DELETE", f"/api/v1/namespaces/{place}/pods/{OTHER}")
    yield Attempt("POST", f"/api/v1/namespaces/{place}/pods", m.pod(place, "new", node=OTHER))
    lease = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{OTHER}"
    yield Attempt("PATCH", lease, label, MERGE)
    yield Attempt("GET", f"{RESOURCE_API}/v1/deviceclasses/gpu.nvidia.com/status")
    yield Attempt("DELETE", f"{RESOURCE_API}/v1/deviceclasses/gpu.nvidia.com")
    yield Attempt("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
    yield Attempt("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles")


def test_requests_beyond_own_node_answer_403(bed: Bed, pods: Pods) -> None:
    for node in (OWN, OTHER):
        pods.create(m.pod(pods.place, node, templates={"gpu": "gpu"}, node=node))
    bed.wait_running(pods.place, OWN, OTHER)
    own, theirs = (pods.claim_of(node)["metadata"]["name"] for node in (OWN, OTHER))
    their_slice = next(s for s in bed.slices() if s["spec"]["nodeName"] == OTHER)
    layout = bed.cluster.layout
    client = ApiClient(layout, layout.identity(OWN))
    client.get(f"/api/v1/nodes/{OWN}")
    client.get(f"{RESOURCE_API}/v1/namespaces/{pods.place}/resourceclaims/{own}")
    client.get(f"{SLICES}?fieldSelector=spec.nodeName%3D{OWN}")
    before = bed.slices()
    attempts = [
        *of_slices(their_slice),
        *of_claims(pods.place, own, theirs),
        *of_secrets(pods.place),
        *of_the_cluster(pods.place),
    ]
    let_through = [a for a in attempts if answer(client, a) != 403]
    print(f"{len(attempts)} attempts answered 403")
    assert not let_through
    assert bed.slices() == before


def answer(client: ApiClient, attempt: Attempt) -> int:
    """The status of a request."""
    text = "" if attempt.body is None else json.dumps(attempt.body)
    return client.send(attempt.method, attempt.path, text, attempt.content_type)[0]
