"""Who may do what on the fake: every trespass of one node on another answers 403, as on a well set up cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from nvdra_core.errors import ApiError
from nvdra_core.kube.client import Client
from nvdra_core.kube.dra import DraApi
from nvdra_core.kube.resources import (
    CLAIMS,
    NODES,
    SERVICE_ACCOUNTS,
    SLICES,
    Resource,
    Selector,
    WriteOptions,
)
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings
from tests.lib.objects import obj
from tests.service.kube.objects import a_claim, a_device_status, an_allocation, owned_slice

FABRIC_NODES = Resource("fabric.nvdra.io", "v1alpha1", "fabricnodes", namespaced=False)
ACCOUNT = "system:serviceaccount:nvdra:dra-host-gpu"
Connect = Callable[..., Client]


@pytest.fixture
def guarded() -> Iterator[FakeApiServer]:
    with FakeApiServer(FakeSettings(is_auth_enforced=True)) as server:
        for node in ("node-a", "node-b"):
            server.add(obj("Node", node))
            server.add(owned_slice(f"of-{node}", node))
            fabric = {"apiVersion": "fabric.nvdra.io/v1alpha1", "kind": "FabricNode"}
            server.add({**fabric, "metadata": {"name": node}})
            claim = a_claim(f"on-{node}")
            claim["status"] = {"allocation": an_allocation("gpu-0", node=node)}
            server.add(claim)
            pod = {"apiVersion": "v1", "kind": "Pod"}
            metadata = {"name": f"pod-{node}", "namespace": "default"}
            claims = [{"name": "gpu", "resourceClaimName": f"on-{node}"}]
            server.add(
                {**pod, "metadata": metadata, "spec": {"nodeName": node, "resourceClaims": claims}}
            )
        for name in ("dra-host-gpu", "other"):
            account = {"apiVersion": "v1", "kind": "ServiceAccount"}
            server.add({**account, "metadata": {"name": name, "namespace": "nvdra"}})
        yield server


@pytest.fixture(params=["service", "kubelet"])
def on_node_a(request: pytest.FixtureRequest, guarded: FakeApiServer, connect: Connect) -> Client:
    if request.param == "service":
        return service_client(guarded, connect)
    token = guarded.token_for("system:node:node-a", "system:nodes")
    return connect(guarded.config(token=token))


@pytest.fixture
def service(guarded: FakeApiServer, connect: Connect) -> Client:
    return service_client(guarded, connect)


def service_client(guarded: FakeApiServer, connect: Connect) -> Client:
    token = guarded.token_for(ACCOUNT, "system:serviceaccounts", node="node-a")
    return connect(guarded.config(token=token))


def assert_forbidden(call: Callable[[], object]) -> None:
    with pytest.raises(ApiError) as caught:
        call()
    assert (caught.value.status, caught.value.api_reason) == (403, "Forbidden")


def test_own_slices_are_written(on_node_a: Client) -> None:
    dra = DraApi(on_node_a)
    stored = dra.create_slice(owned_slice("mine", "node-a"))
    stored["spec"]["devices"] = []
    dra.update_slice(stored)
    dra.delete_slice("mine")
    selector = Selector("spec.driver=gpu.nvidia.com,spec.nodeName=node-a")
    assert [item["metadata"]["name"] for item in dra.list_slices(selector).items] == ["of-node-a"]


def test_slices_of_another_node_are_out_of_reach(on_node_a: Client, guarded: FakeApiServer) -> None:
    dra = DraApi(on_node_a)
    foreign = guarded.objects("resourceslices")[1]
    assert foreign["metadata"]["name"] == "of-node-b"
    assert_forbidden(lambda: dra.create_slice(owned_slice("x", "node-b")))
    assert_forbidden(lambda: dra.update_slice(foreign))
    assert_forbidden(lambda: dra.delete_slice("of-node-b"))


def test_slice_cannot_be_moved_to_another_node(on_node_a: Client) -> None:
    obj = owned_slice("mine", "node-a")
    stored = on_node_a.create(SLICES, obj)
    stored["spec"]["nodeName"] = "node-b"
    with pytest.raises(ApiError) as caught:
        on_node_a.update(SLICES, stored)
    assert caught.value.status in {403, 422}


def test_slice_in_another_nodes_pool_is_refused(service: Client) -> None:
    pool = {"name": "node-b", "generation": 9, "resourceSliceCount": 1}
    assert_forbidden(lambda: service.create(SLICES, owned_slice("mine", "node-a", pool=pool)))


def test_slice_without_a_node_is_refused(on_node_a: Client) -> None:
    obj = owned_slice("mine", "node-a", allNodes=True)
    del obj["spec"]["nodeName"]
    assert_forbidden(lambda: on_node_a.create(SLICES, obj))


def test_slice_owned_by_another_node_is_refused(service: Client) -> None:
    obj = owned_slice("mine", "node-a")
    obj["metadata"]["ownerReferences"][0]["name"] = "node-b"
    assert_forbidden(lambda: service.create(SLICES, obj))


def test_kubelet_reads_claims_of_its_pods_only(guarded: FakeApiServer, connect: Connect) -> None:
    token = guarded.token_for("system:node:node-a", "system:nodes")
    dra = DraApi(connect(guarded.config(token=token)))
    dra.get_claim("default", "on-node-a")
    assert_forbidden(lambda: dra.get_claim("default", "on-node-b"))
    assert_forbidden(lambda: dra.client.list(CLAIMS))


def test_claim_status_is_written_for_claims_on_the_node_only(service: Client) -> None:
    dra = DraApi(service)
    options = WriteOptions(field_manager="gpu")

    def apply(node: str) -> None:
        body = {
            "metadata": {"name": f"on-{node}", "namespace": "default"},
            "status": {"devices": [a_device_status("gpu-0", pool=node)]},
        }
        dra.apply_claim_status(body, options=options)

    apply("node-a")
    assert_forbidden(lambda: apply("node-b"))


def test_allocation_is_not_the_nodes_to_write(service: Client) -> None:
    body = {
        "metadata": {"name": "on-node-a", "namespace": "default"},
        "status": {"allocation": None},
    }
    assert_forbidden(lambda: service.merge_patch(CLAIMS.sub("status"), body))


def test_fabric_node_status_of_another_node_is_out_of_reach(service: Client) -> None:
    def body(node: str) -> dict[str, object]:
        return {"metadata": {"name": node}, "status": {"state": "up"}}

    service.merge_patch(FABRIC_NODES.sub("status"), body("node-a"))
    assert_forbidden(lambda: service.merge_patch(FABRIC_NODES.sub("status"), body("node-b")))
    own = {"metadata": {"name": "node-a"}, "spec": {"slot": 1}}
    assert_forbidden(lambda: service.merge_patch(FABRIC_NODES, own))
    assert_forbidden(lambda: service.update(FABRIC_NODES, own))


def a_token_request(account: str, node: str) -> dict[str, object]:
    bound = {"kind": "Node", "apiVersion": "v1", "name": node}
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {"name": account, "namespace": "nvdra"},
        "spec": {"boundObjectRef": bound, "expirationSeconds": 3600},
    }


def test_node_renews_its_own_token_only(
    service: Client, guarded: FakeApiServer, connect: Connect
) -> None:
    tokens = SERVICE_ACCOUNTS.sub("token")
    minted = service.create(tokens, a_token_request("dra-host-gpu", "node-a"))["status"]["token"]
    connect(guarded.config(token=minted)).get(NODES, "node-a")
    assert_forbidden(lambda: service.create(tokens, a_token_request("dra-host-gpu", "node-b")))
    assert_forbidden(lambda: service.create(tokens, a_token_request("other", "node-a")))


def test_stranger_may_nothing(guarded: FakeApiServer, connect: Connect) -> None:
    client = connect(guarded.config(token=guarded.token_for("somebody")))
    assert_forbidden(lambda: client.get(NODES, "node-a"))
    assert_forbidden(lambda: client.list(SLICES))
