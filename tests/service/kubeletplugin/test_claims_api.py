"""Claims on an API server: reads in every version, and the status of prepared claims."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from nvdra_core.errors import ApiError, StaleClaimError
from nvdra_core.kube.resources import WriteOptions
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.checkpoint.claim import ClaimRef, ClaimUID
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.kube import permission
from nvdra_node.kube.client import Client
from nvdra_node.kube.dra import DraApi
from nvdra_node.kubeletplugin.claims import outbox, status_writer
from nvdra_node.kubeletplugin.claims.reader import ClaimReader
from nvdra_node.kubeletplugin.claims.status_writer import ClaimStatusWriter
from tests.beds.services.publishing import DRIVER, NODE
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings
from tests.fakes.clock import FakeClock
from tests.lib.waits import until

CLOCK = SystemClock()
OTHER = "nic.example.com"
NO_RIGHT = (
    'resourceclaims.resource.k8s.io "c" is forbidden: User "system:node:n" cannot patch resource'
    ' "resourceclaims/status" in API group "resource.k8s.io" in the namespace "ns"'
)
"""Message of a kube-apiserver."""


class Reads:
    def claim_read(self, outcome: str = "success") -> None:
        pass


def a_claim(name: str = "train") -> dict[str, Any]:
    results = [
        {"request": "g", "driver": DRIVER, "pool": NODE, "device": "gpu-0"},
        {"request": "n", "driver": OTHER, "pool": NODE, "device": "eth0"},
    ]
    request = {"name": "g", "exactly": {"deviceClassName": "gpu.nvidia.com"}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"devices": {"requests": [request]}},
        "status": {"allocation": {"devices": {"results": results}}},
    }


GPU = PreparedDevice(
    request="g", pool=NODE, device="gpu-0", kind="gpu", cdi_ids=("k8s.gpu.nvidia.com/claim=x",),
    details={"uuid": "GPU-1", "pciBusID": "0000:01:00.0", "minor": None},
)  # fmt: skip


class Cluster:
    def __init__(self, server: FakeApiServer) -> None:
        self.server = server
        self.client = Client(server.config())
        self.api = DraApi(self.client)
        self.status = ClaimStatusWriter(self.api, DRIVER, CLOCK)

    def add(self, name: str = "train") -> ClaimRef:
        uid = self.server.add(a_claim(name))["metadata"]["uid"]
        return ClaimRef("default", name, ClaimUID(uid))

    def entries(self, name: str = "train") -> dict[str, dict[str, Any]]:
        claim = next(
            c for c in self.server.objects("resourceclaims") if c["metadata"]["name"] == name
        )
        return {entry["driver"]: entry for entry in claim["status"].get("devices", ())}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with FakeApiServer() as server:
        made = Cluster(server)
        yield made
        made.status.outbox.stop()
        made.client.close()


@pytest.mark.parametrize("version", ["v1", "v1beta2", "v1beta1"])
def test_claim_is_read_in_every_version_with_one_request(version: str) -> None:
    with FakeApiServer(FakeSettings(versions=(version,))) as server:
        cluster = Cluster(server)
        claims = ClaimReader(cluster.api, DRIVER, NODE, Reads())
        obj = {**a_claim(), "apiVersion": f"resource.k8s.io/{version}"}
        if version == "v1beta1":
            request = {"name": "g", "deviceClassName": "gpu.nvidia.com"}
            obj["spec"] = {"devices": {"requests": [request]}}
        uid = server.add(obj)["metadata"]["uid"]
        ref = ClaimRef("default", "train", ClaimUID(uid))
        assert claims.fetch(ref, Deadline(5, CLOCK)).results[0].device == "gpu-0"
        server.api.log.clear()
        claims.fetch(ref, Deadline(5, CLOCK))
        assert [(line.verb, line.resource) for line in server.api.log.lines()] == [
            ("get", "resourceclaims")
        ]
        cluster.client.close()


def test_unknown_and_replaced_claims_are_stale(cluster: Cluster) -> None:
    claims = ClaimReader(cluster.api, DRIVER, NODE, Reads())
    for name, uid in (("never", "u"), ("train", "other-uid")):
        cluster.add() if name == "train" else None
        with pytest.raises(StaleClaimError):
            claims.fetch(ClaimRef("default", name, ClaimUID(uid)), Deadline(5, CLOCK))


def test_prepared_claim_gets_its_status(cluster: Cluster) -> None:
    ref = cluster.add()
    cluster.status.outbox.start()
    cluster.status.prepared(ref, (GPU,))
    until(cluster.entries)
    entry = cluster.entries()[DRIVER]
    (condition,) = entry["conditions"]
    assert (condition["type"], condition["status"]) == ("Ready", "True")
    assert entry["data"] == {
        "uuid": "GPU-1",
        "pciBusID": "0000:01:00.0",
        "kind": "gpu",
        "cdiDeviceIDs": ["k8s.gpu.nvidia.com/claim=x"],
    }


def test_status_of_other_drivers_stays(cluster: Cluster) -> None:
    ref = cluster.add()
    theirs = PreparedDevice(request="n", pool=NODE, device="eth0", cdi_ids=())
    body = status_writer.to_status(ref, (theirs,), driver=OTHER, at_s=0)
    cluster.api.apply_claim_status(body, options=WriteOptions(field_manager="nic"))
    cluster.status.prepared(ref, (GPU,))
    cluster.status.outbox.write_next()
    assert set(cluster.entries()) == {DRIVER, OTHER}


UNSORTED = {"kind": "GpuConfig", "apiVersion": "resource.nvidia.com/v1beta1"}


@pytest.fixture
def unsorted(cluster: Cluster) -> ClaimRef:
    """A claim whose parameters a client sent unsorted: the API server accepts no apply for it."""
    claim = a_claim()
    config = {"source": "FromClaim", "opaque": {"driver": DRIVER, "parameters": UNSORTED}}
    claim["status"]["allocation"]["devices"]["config"] = [config]
    uid = cluster.server.add(claim)["metadata"]["uid"]
    return ClaimRef("default", "train", ClaimUID(uid))


def test_claim_with_unsorted_parameters_gets_its_status(
    cluster: Cluster, unsorted: ClaimRef
) -> None:
    theirs = PreparedDevice(request="n", pool=NODE, device="eth0", cdi_ids=())
    other = ClaimStatusWriter(cluster.api, OTHER, CLOCK)
    for writer, device in ((other, theirs), (cluster.status, GPU), (cluster.status, GPU)):
        writer.prepared(unsorted, (device,))
        assert writer.outbox.write_next() == 0.0
    assert cluster.status.lost == other.lost == 0
    assert set(cluster.entries()) == {DRIVER, OTHER}
    (claim,) = cluster.server.objects("resourceclaims")
    (config,) = claim["status"]["allocation"]["devices"]["config"]
    assert list(config["opaque"]["parameters"]) == list(UNSORTED)


def test_patch_conflict_is_read_again(cluster: Cluster, unsorted: ClaimRef) -> None:
    cluster.server.api.faults.add(Fault(verb="patch", code=422))
    cluster.server.api.faults.add(Fault(verb="patch", code=409, count=2))
    cluster.status.prepared(unsorted, (GPU,))
    cluster.status.outbox.write_next()
    assert set(cluster.entries()) == {DRIVER}


def test_later_claim_with_unsorted_parameters_is_not_patched(
    cluster: Cluster, unsorted: ClaimRef
) -> None:
    cluster.server.api.faults.add(Fault(verb="patch", code=422))
    older = ClaimRef(unsorted.namespace, unsorted.name, ClaimUID("older"))
    cluster.status.prepared(older, (GPU,))
    cluster.status.outbox.write_next()
    assert cluster.entries() == {} and cluster.status.lost == 1


def test_later_claim_of_the_same_name_gets_no_status(cluster: Cluster) -> None:
    ref = cluster.add()
    cluster.status.prepared(ClaimRef(ref.namespace, ref.name, ClaimUID("older")), (GPU,))
    cluster.status.outbox.write_next()
    assert cluster.entries() == {} and cluster.status.lost == 1


def test_forbidden_status_writer_pauses(cluster: Cluster) -> None:
    refs = [cluster.add(f"c{n}") for n in range(permission.LIMIT)]
    cluster.server.api.faults.add(Fault(verb="apply", code=403, count=0))
    cluster.server.api.faults.add(Fault(verb="patch", code=403, count=0))
    cluster.status.outbox.start()
    for ref in refs:
        cluster.status.prepared(ref, (GPU,))
    until(lambda: not cluster.status.is_on)
    before = len(cluster.server.api.log.lines())
    cluster.status.prepared(refs[0], (GPU,))
    time.sleep(0.1)
    assert len(cluster.server.api.log.lines()) == before


def test_403_of_some_claims_does_not_pause(cluster: Cluster) -> None:
    """A policy refuses statuses of claims that were deallocated meanwhile."""
    refusal = Fault(resource="resourceclaims/status", code=403)
    for number in range(2 * permission.LIMIT):
        cluster.server.api.faults.add(refusal)
        for name in (f"stale-{number}", f"live-{number}"):
            cluster.status.prepared(cluster.add(name), (GPU,))
            assert cluster.status.outbox.write_next() == 0.0
        assert cluster.entries(f"live-{number}")
    assert cluster.status.is_on


def test_missing_permission_is_retested_once_per_period(cluster: Cluster) -> None:
    clock, api = FakeClock(), Refused(NO_RIGHT)
    status = ClaimStatusWriter(api, DRIVER, clock)
    for number in range(5):
        status.prepared(ClaimRef("ns", f"c{number}", ClaimUID(f"u{number}")), (GPU,))
        status.outbox.write_next()
    assert api.tries == 1 and not status.is_on
    for hours in range(1, 4):
        clock.advance(permission.RETEST_S)
        for number in range(5):
            status.prepared(ClaimRef("ns", f"c{number}", ClaimUID(f"u{number}")), (GPU,))
            status.outbox.write_next()
        assert api.tries == 1 + hours
    clock.advance(permission.RETEST_S)
    api.error = None
    for number in range(2):
        status.prepared(ClaimRef("ns", f"c{number}", ClaimUID(f"u{number}")), (GPU,))
        status.outbox.write_next()
    assert api.tries == 6 and status.is_on


def test_statuses_kept_back_are_written_once_allowed() -> None:
    clock, api = FakeClock(), Refused(NO_RIGHT)
    status = ClaimStatusWriter(api, DRIVER, clock)
    for number in range(5):
        status.prepared(ClaimRef("ns", f"c{number}", ClaimUID(f"u{number}")), (GPU,))
    for _ in range(3 * 6):  # three hours without a new claim
        assert status.outbox.write_next() == permission.RETEST_S
        assert 0 < status.outbox.write_next() <= permission.RETEST_S
        clock.advance(permission.RETEST_S)
    assert api.tries == 3 * 6, "one request in ten minutes"
    api.error = None
    for _ in range(6):
        assert status.outbox.write_next() == 0.0
    assert api.tries == 3 * 6 + 5 and status.lost == 0


@pytest.mark.parametrize(
    "message",
    [
        f"{NO_RIGHT}: no relationship found between node 'n' and this object",
        "resourceclaims \"c\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: not yours",
    ],
)
def test_refusal_of_one_claim_does_not_pause(message: str) -> None:
    api = Refused(message)
    status = ClaimStatusWriter(api, DRIVER, FakeClock())
    for number in range(permission.LIMIT):
        assert status.is_on
        status.prepared(ClaimRef("ns", f"c{number}", ClaimUID(f"u{number}")), (GPU,))
        status.outbox.write_next()
    assert not status.is_on, "several in a row count as one of all"


def test_401_is_retried(cluster: Cluster) -> None:
    cluster.server.api.faults.add(Fault(resource="resourceclaims/status", code=401, count=2))
    cluster.status.prepared(cluster.add(), (GPU,))
    pauses_s = [cluster.status.outbox.write_next() for _ in range(3)]
    assert pauses_s[0] and pauses_s[1] and not pauses_s[2]
    assert cluster.status.is_on and set(cluster.entries()) == {DRIVER}


def test_hanging_server_delays_no_caller(cluster: Cluster) -> None:
    ref = cluster.add()
    cluster.server.api.faults.add(Fault(action="hang", count=0))
    cluster.status.outbox.start()
    started = time.monotonic()
    for _ in range(1000):
        cluster.status.prepared(ref, (GPU,))
    assert time.monotonic() - started < 30
    cluster.server.api.faults.clear()


class OnlyApplied:
    """The part of StatusApi that is only used after a 422."""

    def get_claim(
        self, namespace: str, name: str, *, deadline: Deadline | None = None
    ) -> dict[str, Any]:
        raise AssertionError("unexpected read")

    def patch_claim_status(
        self, body: dict[str, Any], *, options: WriteOptions, deadline: Deadline | None = None
    ) -> dict[str, Any]:
        raise AssertionError("unexpected patch")


class Refused(OnlyApplied):
    """StatusApi that replies 403."""

    def __init__(self, message: str) -> None:
        self.error: ApiError | None = ApiError(message, status=403)
        self.tries = 0

    def apply_claim_status(
        self, body: dict[str, Any], *, options: WriteOptions, deadline: Deadline | None = None
    ) -> dict[str, Any]:
        self.tries += 1
        if self.error is not None:
            raise self.error
        return body


class Api(OnlyApplied):
    """StatusApi that fails a number of times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.names: list[str] = []

    def apply_claim_status(
        self, body: dict[str, Any], *, options: WriteOptions, deadline: Deadline | None = None
    ) -> dict[str, Any]:
        assert options.force and options.field_manager == f"nvdra-{DRIVER}"
        self.names.append(body["metadata"]["name"])
        if len(self.names) <= self.failures:
            raise ApiError("busy", status=503)
        return body


def queued(api: Api, *names: str) -> ClaimStatusWriter:
    status = ClaimStatusWriter(api, DRIVER, FakeClock())
    for name in names:
        status.prepared(ClaimRef("ns", name, ClaimUID(name)), (GPU,))
    return status


def test_newer_status_replaces_queued_one() -> None:
    api = Api(0)
    status = queued(api, "a", "b", "a")
    for _ in range(5):
        assert status.outbox.write_next() == 0
    assert api.names == ["b", "a"]


def test_failed_write_is_tried_three_times_with_pauses() -> None:
    api = Api(99)
    status = queued(api, "a")
    pauses = [status.outbox.write_next() for _ in range(5)]
    assert api.names == ["a"] * 3 and status.lost == 1
    assert pauses[0] > 0 and pauses[1] > 0 and pauses[2:] == [0, 0, 0]


def test_unprepared_claim_gets_no_status() -> None:
    api = Api(0)
    status = queued(api, "a", "b")
    status.forget(ClaimRef("ns", "a", ClaimUID("a")))
    status.outbox.write_next()
    assert api.names == ["b"]


def test_full_queue_drops_the_oldest() -> None:
    api = Api(0)
    status = queued(api, *(f"c{n}" for n in range(outbox.MAX_QUEUED + 10)))
    status.outbox.write_next()
    assert (status.lost, api.names) == (10, ["c10"])


def test_shares_get_separate_entries() -> None:
    shares = [
        PreparedDevice(request="g", pool=NODE, device="gpu-0", cdi_ids=(), share_id=share)
        for share in ("s1", "s2")
    ]
    ref = ClaimRef("ns", "a", ClaimUID("a"))
    body = status_writer.to_status(ref, shares, driver=DRIVER, at_s=0)
    assert [entry["shareID"] for entry in body["status"]["devices"]] == ["s1", "s2"]
