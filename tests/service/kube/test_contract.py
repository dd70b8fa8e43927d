"""What the client and its callers rely on, checked on the fake and on the real API server of each Kubernetes version.

Another one: ``NVDRA_TEST_KUBECONFIG=... pytest -m cluster tests/service/kube`` with an administrator's kubeconfig of
Kubernetes 1.34 or later. Objects are named nvdra-contract-* and are removed again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from nvdra_core.errors import ApiError
from nvdra_core.kube.resources import (
    CLAIMS,
    NAMESPACES,
    SLICES,
    JsonObject,
    Preconditions,
    Selector,
    WriteOptions,
)
from nvdra_node.kube import resourceapi
from nvdra_node.kube.client import Client
from nvdra_node.kube.config import KubeConfig
from nvdra_node.kube.dra import DraApi
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings
from tests.service.kube.following import Follower
from tests.service.kube.objects import (
    a_claim,
    a_device,
    a_device_status,
    a_slice,
    an_allocation,
)
from tests.service.kube.watchrules import WatchRules


def without_managers(obj: JsonObject) -> JsonObject:
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    return {**obj, "metadata": metadata}


class StoreRules(WatchRules):
    """What the fake does as the real server; subclasses name the server."""

    @pytest.fixture
    def api(self) -> Iterator[Client]:
        raise NotImplementedError

    @pytest.fixture
    def minor(self, api: Client) -> int:
        return int(api.get_path("/version")["minor"])

    @pytest.fixture
    def node(self) -> str:
        return f"nvdra-contract-{secrets.token_hex(3)}"

    @pytest.fixture
    def dra(self, api: Client, node: str) -> Iterator[DraApi]:
        yield DraApi(api)
        for item in api.list(SLICES, selector=Selector(f"spec.nodeName={node}")).items:
            api.delete(SLICES, item["metadata"]["name"])

    @pytest.fixture
    def namespace(self, api: Client) -> Iterator[str]:
        name = f"nvdra-contract-{secrets.token_hex(3)}"
        api.create(NAMESPACES, {"metadata": {"name": name}})
        yield name
        for item in api.list(CLAIMS, namespace=name).items:
            item["metadata"]["finalizers"] = []
            api.merge_patch(CLAIMS, {"metadata": {**item["metadata"], "resourceVersion": None}})
            try:
                api.delete(CLAIMS, item["metadata"]["name"], namespace=name)
            except ApiError as error:
                assert error.status == 404
        api.delete(NAMESPACES, name)

    @pytest.fixture
    def claim(self, api: Client, namespace: str, node: str) -> JsonObject:
        created = api.create(CLAIMS, a_claim(namespace=namespace))
        created["status"] = {"allocation": an_allocation("gpu-0", "gpu-1", node=node)}
        return api.update(CLAIMS.sub("status"), created)

    def test_created_slice_has_what_the_server_adds(self, dra: DraApi, node: str) -> None:
        stored = dra.create_slice(a_slice(f"{node}-1", node))
        assert stored["metadata"]["uid"]
        assert stored["metadata"]["resourceVersion"]
        assert stored["metadata"]["generation"] == 1
        assert stored["spec"]["devices"] == [a_device()]

    def test_generated_name_keeps_its_prefix(self, dra: DraApi, node: str) -> None:
        body = a_slice(node=node)
        body["metadata"] = {"generateName": f"{node}-"}
        name = dra.create_slice(body)["metadata"]["name"]
        assert name.startswith(f"{node}-")
        assert len(name) == len(node) + 6

    def test_create_of_existing_name_is_already_exists(self, dra: DraApi, node: str) -> None:
        dra.create_slice(a_slice(f"{node}-1", node))
        with pytest.raises(ApiError) as caught:
            dra.create_slice(a_slice(f"{node}-1", node))
        assert (caught.value.status, caught.value.api_reason) == (409, "AlreadyExists")

    def test_missing_object_is_not_found(self, dra: DraApi, node: str) -> None:
        with pytest.raises(ApiError) as caught:
            dra.delete_slice(f"{node}-none")
        assert (caught.value.status, caught.value.api_reason) == (404, "NotFound")

    def test_missing_path_has_no_reason(self, api: Client) -> None:
        with pytest.raises(ApiError) as caught:
            api.get(SLICES.at("v9"), "x")
        assert (caught.value.status, caught.value.api_reason) == (404, "")

    def test_update_raises_generation_and_version(self, dra: DraApi, node: str) -> None:
        stored = dra.create_slice(a_slice(f"{node}-1", node))
        stored["spec"]["devices"] = [a_device(), a_device("gpu-1")]
        updated = dra.update_slice(stored)
        assert updated["metadata"]["generation"] == 2
        assert updated["metadata"]["resourceVersion"] != stored["metadata"]["resourceVersion"]

    def test_update_without_change_keeps_the_version(self, dra: DraApi, node: str) -> None:
        stored = dra.create_slice(a_slice(f"{node}-1", node))
        again = dra.update_slice(stored)
        assert again["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"]

    def test_update_of_an_old_state_is_a_conflict(self, dra: DraApi, node: str) -> None:
        old = dra.create_slice(a_slice(f"{node}-1", node))
        dra.update_slice({**old, "spec": {**old["spec"], "devices": []}})
        with pytest.raises(ApiError) as caught:
            dra.update_slice(old)
        assert (caught.value.status, caught.value.api_reason) == (409, "Conflict")

    def test_delete_of_another_incarnation_is_a_conflict(self, dra: DraApi, node: str) -> None:
        dra.create_slice(a_slice(f"{node}-1", node))
        with pytest.raises(ApiError) as caught:
            dra.delete_slice(f"{node}-1", preconditions=Preconditions(uid="another"))
        assert (caught.value.status, caught.value.api_reason) == (409, "Conflict")

    def test_delete_of_the_seen_state_succeeds(self, dra: DraApi, node: str) -> None:
        metadata = dra.create_slice(a_slice(f"{node}-1", node))["metadata"]
        seen = Preconditions(uid=metadata["uid"], resource_version=metadata["resourceVersion"])
        dra.delete_slice(f"{node}-1", preconditions=seen)
        assert dra.list_slices(Selector(f"spec.nodeName={node}")).items == []

    def test_finalizer_holds_a_deleted_object(self, api: Client, namespace: str) -> None:
        body = a_claim("kept", namespace)
        body["metadata"]["finalizers"] = ["nvdra.io/test"]
        api.create(CLAIMS, body)
        api.delete(CLAIMS, "kept", namespace=namespace)
        kept = api.get(CLAIMS, "kept", namespace=namespace)
        assert kept["metadata"]["deletionTimestamp"]
        kept["metadata"]["finalizers"] = []
        api.update(CLAIMS, kept)
        with pytest.raises(ApiError) as caught:
            api.get(CLAIMS, "kept", namespace=namespace)
        assert caught.value.api_reason == "NotFound"

    def test_dry_run_stores_nothing(self, dra: DraApi, node: str) -> None:
        dra.create_slice(a_slice(f"{node}-1", node), options=WriteOptions(dry_run=True))
        assert dra.list_slices(Selector(f"spec.nodeName={node}")).items == []

    @pytest.mark.parametrize("version", ["v1beta1", "v1beta2"])
    def test_conversion_equals_the_servers(
        self, api: Client, dra: DraApi, claim: JsonObject, node: str, version: str
    ) -> None:
        served = api.get_path("/apis/resource.k8s.io")["versions"]
        if version not in {entry["version"] for entry in served}:
            pytest.skip("not served here")
        stored = dra.create_slice(a_slice(f"{node}-1", node))
        read = api.get(SLICES.at(version), f"{node}-1")
        assert without_managers(resourceapi.slice_from(read, version)) == without_managers(stored)
        name, namespace = claim["metadata"]["name"], claim["metadata"]["namespace"]
        read = api.get(CLAIMS.at(version), name, namespace=namespace)
        assert without_managers(resourceapi.claim_from(read, version)) == without_managers(claim)
        sent = resourceapi.slice_to(a_slice(f"{node}-2", node), version)
        api.create(SLICES.at(version), sent, options=WriteOptions(field_validation="Strict"))
        assert api.get(SLICES, f"{node}-2")["spec"] == a_slice("x", node)["spec"]

    def test_field_selector_limits_the_list(self, dra: DraApi, node: str) -> None:
        dra.create_slice(a_slice(f"{node}-1", node))
        found = dra.list_slices(Selector(f"spec.driver=gpu.nvidia.com,spec.nodeName={node}"))
        assert [item["metadata"]["name"] for item in found.items] == [f"{node}-1"]
        assert dra.list_slices(Selector(f"spec.driver=x.y,spec.nodeName={node}")).items == []

    def test_label_selector_limits_the_list(self, api: Client, dra: DraApi, node: str) -> None:
        body = a_slice(f"{node}-1", node)
        body["metadata"]["labels"] = {"nvdra-test": node}
        dra.create_slice(body)
        for labels, count in (
            (f"nvdra-test={node}", 1),
            (f"nvdra-test={node},!nvdra-test", 0),
        ):
            assert len(api.list(SLICES, selector=Selector(labels=labels)).items) == count

    def test_unknown_field_selector_is_a_bad_request(self, api: Client) -> None:
        with pytest.raises(ApiError) as caught:
            api.list(SLICES, selector=Selector("spec.colour=green"))
        assert caught.value.status == 400

    def test_status_is_not_written_through_the_object(self, api: Client, claim: JsonObject) -> None:
        changed = {**claim, "status": {}}
        assert api.update(CLAIMS, changed)["status"]["allocation"]

    def test_applied_device_status_is_merged(
        self, api: Client, dra: DraApi, claim: JsonObject, node: str
    ) -> None:
        first = self.apply(dra, claim, "one", a_device_status("gpu-0", pool=node))
        assert [entry["device"] for entry in first["status"]["devices"]] == ["gpu-0"]
        second = self.apply(dra, claim, "two", a_device_status("gpu-1", pool=node))
        assert sorted(e["device"] for e in second["status"]["devices"]) == ["gpu-0", "gpu-1"]
        assert second["status"]["allocation"] == claim["status"]["allocation"]

    def test_apply_removes_what_its_manager_leaves_out(
        self, dra: DraApi, claim: JsonObject, node: str
    ) -> None:
        both = [a_device_status(name, pool=node) for name in ("gpu-0", "gpu-1")]
        self.apply(dra, claim, "one", *both)
        left = self.apply(dra, claim, "one", both[1])
        assert [entry["device"] for entry in left["status"]["devices"]] == ["gpu-1"]

    @staticmethod
    def apply(
        dra: DraApi, claim: JsonObject, manager: str, *statuses: JsonObject, force: bool = False
    ) -> JsonObject:
        metadata = {key: claim["metadata"][key] for key in ("name", "namespace", "uid")}
        body = {"metadata": metadata, "status": {"devices": list(statuses)}}
        options = WriteOptions(field_manager=manager, force=force)
        return dra.apply_claim_status(body, options=options)


class ValidationRules(StoreRules):
    """What only the real server does. Tests on the fake state these answers (tests/fakes/apiserver/admission.py)."""

    def test_driver_of_a_slice_cannot_change(self, dra: DraApi, node: str) -> None:
        stored = dra.create_slice(a_slice(f"{node}-1", node))
        stored["spec"]["driver"] = "other.example.com"
        with pytest.raises(ApiError) as caught:
            dra.update_slice(stored)
        assert (caught.value.status, caught.value.api_reason) == (422, "Invalid")

    @pytest.mark.parametrize(
        "spec",
        [
            pytest.param({"allNodes": False}, id="false is not absent"),
            pytest.param({"nodeName": ""}, id="empty is not absent"),
            pytest.param({"allNodes": True}, id="two node selections"),
            pytest.param({"devices": [a_device(), a_device()]}, id="device named twice"),
            pytest.param(
                {"devices": [a_device(attributes={"v": {"version": "580.65.06"}})]},
                id="no semantic version",
            ),
            pytest.param(
                {"devices": [a_device(attributes={"v": {"string": "x" * 65}})]}, id="long string"
            ),
            pytest.param({"devices": [a_device(f"gpu-{n}") for n in range(129)]}, id="129 devices"),
            pytest.param(
                {"pool": {"name": "p", "generation": 1, "resourceSliceCount": 0}}, id="no slices"
            ),
        ],
    )
    def test_invalid_slice_is_refused(self, dra: DraApi, node: str, spec: JsonObject) -> None:
        with pytest.raises(ApiError) as caught:
            dra.create_slice(a_slice(f"{node}-1", node, **spec))
        assert (caught.value.status, caught.value.api_reason) == (422, "Invalid")

    def test_unknown_field_is_refused_when_asked_strictly(self, dra: DraApi, node: str) -> None:
        body = a_slice(f"{node}-1", node, colour="green")
        with pytest.raises(ApiError) as caught:
            dra.create_slice(body, options=WriteOptions(field_validation="Strict"))
        assert caught.value.status == 400

    def test_unknown_field_is_dropped_otherwise(self, dra: DraApi, node: str) -> None:
        stored = dra.create_slice(a_slice(f"{node}-1", node, colour="green"))
        assert "colour" not in stored["spec"]

    def test_fields_of_disabled_gates_are_dropped(self, dra: DraApi, node: str, minor: int) -> None:
        taint = {"key": "gpu.nvidia.com/unhealthy", "value": "xid", "effect": "NoSchedule"}
        devices = [a_device(taints=[taint], allowMultipleAllocations=True)]
        (stored,) = dra.create_slice(a_slice(f"{node}-1", node, devices=devices))["spec"]["devices"]
        if minor < 36:
            assert not stored.keys() & {"taints", "allowMultipleAllocations"}
        else:
            assert stored["taints"][0].pop("timeAdded")
            assert stored["taints"] == [taint]
            assert stored["allowMultipleAllocations"]

    def test_counters_and_devices_share_no_slice(self, dra: DraApi, node: str, minor: int) -> None:
        counters = [{"name": "gpu-0", "counters": {"memory": {"value": "80Gi"}}}]
        body = a_slice(f"{node}-1", node, sharedCounters=counters)
        if minor < 36:  # the gate is off
            assert "sharedCounters" not in dra.create_slice(body)["spec"]
            return
        with pytest.raises(ApiError) as caught:
            dra.create_slice(body)
        assert caught.value.status == 422
        del body["spec"]["devices"]
        assert dra.create_slice(body)["spec"]["sharedCounters"] == counters

    def test_slices_with_counters_hold_64_devices(self, dra: DraApi, node: str, minor: int) -> None:
        consumed = [{"counterSet": "gpu-0", "counters": {"memory": {"value": "1Gi"}}}]
        devices = [a_device(f"gpu-{n}", consumesCounters=consumed) for n in range(65)]
        body = a_slice(f"{node}-1", node, devices=devices)
        if minor < 36:
            dra.create_slice(body)
            return
        with pytest.raises(ApiError) as caught:
            dra.create_slice(body)
        assert caught.value.status == 422
        body["spec"]["devices"].pop()
        dra.create_slice(body)

    def test_spec_of_a_claim_cannot_change(self, api: Client, claim: JsonObject) -> None:
        claim["spec"]["devices"]["requests"][0]["exactly"]["count"] = 2
        with pytest.raises(ApiError) as caught:
            api.update(CLAIMS, claim)
        assert caught.value.status == 422

    def test_apply_over_other_manager_conflicts_unless_forced(
        self, dra: DraApi, claim: JsonObject, node: str
    ) -> None:
        self.apply(dra, claim, "one", a_device_status("gpu-0", pool=node))
        other = a_device_status("gpu-0", ready="False", pool=node)
        with pytest.raises(ApiError) as caught:
            self.apply(dra, claim, "two", other)
        assert caught.value.status == 409
        forced = self.apply(dra, claim, "two", other, force=True)
        assert forced["status"]["devices"][0]["conditions"][0]["status"] == "False"

    def test_status_of_an_unallocated_device_is_refused(
        self, dra: DraApi, claim: JsonObject, node: str
    ) -> None:
        with pytest.raises(ApiError) as caught:
            self.apply(dra, claim, "one", a_device_status("gpu-9", pool=node))
        assert caught.value.status == 422

    def test_unsorted_parameters_accept_merge_patch_only(
        self, api: Client, dra: DraApi, namespace: str, node: str
    ) -> None:
        parameters = {"kind": "GpuConfig", "apiVersion": "resource.nvidia.com/v1beta1"}
        config = {"opaque": {"driver": "gpu.nvidia.com", "parameters": parameters}}
        created = api.create(CLAIMS, a_claim(namespace=namespace))
        allocation = an_allocation("gpu-0", "gpu-1", node=node)
        allocation["devices"]["config"] = [{"source": "FromClaim", **config}]
        claim = api.update(CLAIMS.sub("status"), {**created, "status": {"allocation": allocation}})
        entry = a_device_status("gpu-0", pool=node)
        with pytest.raises(ApiError) as caught:
            self.apply(dra, claim, "one", entry)
        assert caught.value.status == 422
        keys = ("name", "namespace", "uid", "resourceVersion")
        metadata = {key: claim["metadata"][key] for key in keys}
        body = {"metadata": metadata, "status": {"devices": [entry]}}
        stored = dra.patch_claim_status(body, options=WriteOptions())
        assert [one["device"] for one in stored["status"]["devices"]] == ["gpu-0"]
        with pytest.raises(ApiError) as caught:
            dra.patch_claim_status(body, options=WriteOptions())
        assert caught.value.status == 409


class TestFakeApi(StoreRules):
    @pytest.fixture
    def server(self) -> Iterator[FakeApiServer]:
        with FakeApiServer(FakeSettings(versions=("v1", "v1beta2", "v1beta1"))) as running:
            yield running

    @pytest.fixture
    def api(self, server: FakeApiServer) -> Iterator[Client]:
        client = Client(server.config())
        yield client
        client.close()

    def test_compacted_version_is_relisted(self, api: Client, server: FakeApiServer) -> None:
        # A real server forgets after five minutes at the soonest.
        server.api.store.compact()
        follower = Follower(api, version="1")
        follower.wait_for("LIST ")
        follower.stop()


@pytest.mark.cluster
@pytest.mark.timeout(300)
class TestRealApi(ValidationRules):
    @pytest.fixture
    def api(self, kubeconfig: str) -> Iterator[Client]:
        client = Client(KubeConfig.load(kubeconfig))
        yield client
        client.close()
