"""Callers see v1 whatever the cluster serves, and follow an upgrade of it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from nvdra_core.errors import ApiError
from nvdra_core.kube.resources import Selector, WriteOptions
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.kube.client import Client
from nvdra_node.kube.dra import RECHECK_S, DraApi
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings
from tests.fakes.clock import FakeClock
from tests.lib.waits import until
from tests.service.kube.following import Follower
from tests.service.kube.objects import a_claim, a_device, a_device_status, a_slice, an_allocation
from tests.service.kube.patience import assert_unreachable

ALL = ("v1", "v1beta2", "v1beta1")


@pytest.mark.parametrize("version", ALL)
def test_objects_are_the_same_in_all_versions(connect: Callable[..., Client], version: str) -> None:
    with FakeApiServer(FakeSettings(minor=34, versions=(version,))) as server:
        dra = DraApi(connect(server.config()))
        stored = dra.create_slice(a_slice())
        assert dra.version() == version
        assert stored["apiVersion"] == "resource.k8s.io/v1"
        assert stored["spec"] == a_slice()["spec"]
        assert server.objects("resourceslices")[0]["spec"] == a_slice()["spec"]
        stored["spec"]["devices"] = [a_device("gpu-1")]
        dra.update_slice(stored)
        (listed,) = dra.list_slices(Selector("spec.nodeName=node-a")).items
        assert listed["spec"]["devices"] == [a_device("gpu-1")]
        dra.delete_slice("slice")
        assert server.objects("resourceslices") == []


@pytest.mark.parametrize("version", ALL)
def test_claim_is_read_as_v1(connect: Callable[..., Client], version: str) -> None:
    with FakeApiServer() as server:
        claim = a_claim()
        claim["status"] = {"allocation": an_allocation("gpu-0")}
        server.add(claim)
        server.api.router.serve_versions((version,))
        dra = DraApi(connect(server.config()))
        read = dra.get_claim("default", "claim")
        assert read["spec"] == claim["spec"]
        assert read["status"]["allocation"] == claim["status"]["allocation"]
        body = {"metadata": {"name": "claim", "namespace": "default"}}
        status = {**body, "status": {"devices": [a_device_status("gpu-0")]}}
        applied = dra.apply_claim_status(status, options=WriteOptions(field_manager="x"))
        assert applied["status"]["devices"][0]["device"] == "gpu-0"


def test_best_version_is_chosen(connect: Callable[..., Client]) -> None:
    with FakeApiServer(FakeSettings(versions=("v1beta1", "v1beta2", "v1"))) as server:
        assert DraApi(connect(server.config())).version() == "v1"


def test_unserved_version_is_left(server: FakeApiServer, client: Client) -> None:
    server.api.router.serve_versions(("v1beta1",))
    dra = DraApi(client)
    dra.create_slice(a_slice())
    server.api.router.serve_versions(("v1",))
    assert dra.list_slices().items[0]["metadata"]["name"] == "slice"
    assert dra.version() == "v1"


def test_upgrade_during_an_outage_is_noticed(server: FakeApiServer, client: Client) -> None:
    server.api.router.serve_versions(("v1beta1",))
    dra = DraApi(client)
    dra.list_slices()
    server.stop()
    assert_unreachable(client)
    server.api.router.serve_versions(("v1", "v1beta1"))
    server.start()
    dra.list_slices()
    assert dra.version() == "v1"


def test_older_version_is_left_for_a_newer_one(server: FakeApiServer) -> None:
    """One server of a control plane answered before its upgrade; no connection ever failed."""
    clock = FakeClock()
    client = Client(server.config(), clock=clock)
    dra = DraApi(client)
    server.api.router.serve_versions(("v1beta1",))
    dra.list_slices()
    server.api.router.serve_versions(("v1", "v1beta1"))
    server.api.log.clear()
    for _ in range(10):
        dra.list_slices()
    assert (dra.version(), server.api.log.count()) == ("v1beta1", 10)
    clock.advance(RECHECK_S)
    dra.list_slices()
    assert (dra.version(), server.api.log.count()) == ("v1", 12)
    clock.advance(10 * RECHECK_S)
    dra.list_slices()
    assert server.api.log.count() == 13
    client.close()


def test_failed_version_recheck_is_ignored(server: FakeApiServer) -> None:
    clock = FakeClock()
    client = Client(server.config(), clock=clock)
    dra = DraApi(client)
    server.api.router.serve_versions(("v1beta1",))
    dra.list_slices()
    clock.advance(RECHECK_S)
    server.api.faults.add(Fault(resource="/apis/resource.k8s.io", code=403, count=0))
    server.api.log.clear()
    for _ in range(5):
        dra.list_slices()
    assert (dra.version(), server.api.log.count()) == ("v1beta1", 6)
    client.close()


def test_missing_claim_costs_one_request(server: FakeApiServer, client: Client) -> None:
    dra = DraApi(client)
    dra.version()
    server.api.log.clear()
    with pytest.raises(ApiError) as caught:
        dra.get_claim("default", "none")
    assert caught.value.api_reason == "NotFound"
    assert server.api.log.count() == 1


def test_claim_costs_one_request(server: FakeApiServer, client: Client) -> None:
    server.add(a_claim())
    dra = DraApi(client)
    dra.version()
    server.api.log.clear()
    for _ in range(3):
        dra.get_claim("default", "claim")
    assert server.api.log.summary()["counts"] == {"get resourceclaims 200": 3}


def test_cluster_without_dra_is_named_in_the_error(server: FakeApiServer, client: Client) -> None:
    server.api.router.serve_versions(())
    with pytest.raises(ApiError) as caught:
        DraApi(client).list_slices()
    assert caught.value.status == 404


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a%2fb"])
def test_name_that_changes_the_path_is_not_sent(
    server: FakeApiServer, client: Client, name: str
) -> None:
    dra = DraApi(client)
    dra.version()
    server.api.log.clear()
    with pytest.raises(ApiError) as caught:
        dra.get_claim("default", name)
    assert caught.value.status == 400
    assert server.api.log.count() == 0


@pytest.mark.parametrize("is_streaming", [False, True])
def test_followed_slices_are_v1_across_an_upgrade(
    server: FakeApiServer, client: Client, is_streaming: bool
) -> None:
    server.api.router.serve_versions(("v1beta1",))
    source = DraApi(client).slice_source(Selector("spec.nodeName=node-a"))
    follower = Follower(source, is_streaming=is_streaming)
    follower.wait_for("LIST ")
    server.add(a_slice())
    follower.wait_for("PUT slice")
    server.api.router.serve_versions(("v1",))
    server.api.reader.end_watches()
    follower.wait_for("LIST slice")
    follower.stop()
    assert [obj["apiVersion"] for obj in follower.objects] == ["resource.k8s.io/v1"] * 2
    assert [obj["spec"]["devices"] for obj in follower.objects] == [[a_device()]] * 2


def test_shared_request_respects_each_callers_deadline(
    server: FakeApiServer, client: Client
) -> None:
    server.add(a_claim())
    dra = DraApi(client)
    client.transport.pool.outages += 1  # it may be another API server now: ask it first
    server.api.faults.add(Fault(resource="/apis/resource.k8s.io", action="hang", count=0))
    answers: list[str] = []
    asking = threading.Thread(
        target=lambda: answers.append(dra.version(Deadline(300, SystemClock())))
    )
    asking.start()
    until(lambda: server.api.log.lines())
    with pytest.raises(ApiError, match="not known in time"):
        dra.get_claim("default", "claim", deadline=Deadline(0.2, SystemClock()))
    assert asking.is_alive()
    server.api.faults.clear()
    asking.join()
    assert answers == ["v1"]
