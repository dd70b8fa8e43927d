"""Claims on an API server: read in every version, told what became of them, and never delayed by that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from nvdra_core.errors import ApiError, StaleClaimError
from nvdra_core.kube import permission
from nvdra_core.kube.client import Client
from nvdra_core.kube.dra import DraApi
from nvdra_core.kube.resources import WriteOptions
from nvdra_core.runtime.clock import Deadline, FakeClock, SystemClock
from nvdra_node.checkpoint.claim import ClaimRef, ClaimUID
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.kubeletplugin.claims import status_writer
from nvdra_node.kubeletplugin.claims.reader import ClaimReader
from nvdra_node.kubeletplugin.claims.status_writer import ClaimStatusWriter
from tests.beds.services.publishing import DRIVER, NODE
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings
from tests.lib.waits import until

CLOCK = SystemClock()
OTHER = "nic.example.com"
NO_RIGHT = (
    'resourceclaims.resource.k8s.io "c" is forbidden: User "system:node:n" cannot patch resource'
    ' "resourceclaims/status" in API group "resource.k8s.io" in the namespace "ns"'
)
"""As a kube-apiserver says it."""


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
        made.status.stop()
        made.client.close()


@pytest.mark.parametrize("version", ["v1", "v1beta2", "v1beta1"])
def test_claims_are_read_in_every_version_with_one_request(version: str) -> None:
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


def test_a_claim_that_never_was_and_one_that_was_replaced_are_stale(cluster: Cluster) -> None:
    claims = ClaimReader(cluster.api, DRIVER, NODE, Reads())
    for name, uid in (("never", "u"), ("train", "other-uid")):
        cluster.add() if name == "train" else None
        with pytest.raises(StaleClaimError):
            claims.fetch(ClaimRef("default", name, ClaimUID(uid)), Deadline(5, CLOCK))


def test_a_prepared_claim_says_what_it_has(cluster: Cluster) -> None:
    ref = cluster.add()
    cluster.status.start()
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


def test_entries_of_other_drivers_stay(cluster: Cluster) -> None:
    ref = cluster.add()
    theirs = PreparedDevice(request="n", pool=NODE, device="eth0", cdi_ids=())
    body = status_writer.to_status(ref, (theirs,), driver=OTHER, at_s=0)
    cluster.api.apply_claim_status(body, options=WriteOptions(field_manager="nic"))
    cluster.status.prepared(ref, (GPU,))
    cluster.status.write_next()
    assert set(cluster.entries()) == {DRIVER, OTHER}


UNSORTED = {"kind": "GpuConfig", "apiVersion": "resource.nvidia.com/v1beta1"}


@pytest.fixture
def unsorted(cluster: Cluster) -> ClaimRef:
    """A claim whose parameters a client sent as they came, which the API server takes no apply for."""
    claim = a_claim()
    config = {"source": "FromClaim", "opaque": {"driver": DRIVER, "parameters": UNSORTED}}
    claim["status"]["allocation"]["devices"]["config"] = [config]
    uid = cluster.server.add(claim)["metadata"]["uid"]
    return ClaimRef("default", "train", ClaimUID(uid))


def test_a_claim_with_unsorted_parameters_says_what_it_has(
    cluster: Cluster, unsorted: ClaimRef
) -> None:
    theirs = PreparedDevice(request="n", pool=NODE, device="eth0", cdi_ids=())
    other = ClaimStatusWriter(cluster.api, OTHER, CLOCK)
    for writer, device in ((other, theirs), (cluster.status, GPU), (cluster.status, GPU)):
        writer.prepared(unsorted, (device,))
        assert writer.write_next() == 0.0
    assert cluster.status.lost == other.lost == 0
    assert set(cluster.entries()) == {DRIVER, OTHER}
    (claim,) = cluster.server.objects("resourceclaims")
    (config,) = claim["status"]["allocation"]["devices"]["config"]
    assert list(config["opaque"]["parameters"]) == list(UNSORTED)


def test_a_change_between_reading_and_patching_is_read_again(
    cluster: Cluster, unsorted: ClaimRef
) -> None:
    cluster.server.api.faults.add(Fault(verb="patch", code=422))
    cluster.server.api.faults.add(Fault(verb="patch", code=409, count=2))
    cluster.status.prepared(unsorted, (GPU,))
    cluster.status.write_next()
    assert set(cluster.entries()) == {DRIVER}


def test_the_status_of_a_later_claim_with_unsorted_parameters_is_not_patched(
    cluster: Cluster, unsorted: ClaimRef
) -> None:
    cluster.server.api.faults.add(Fault(verb="patch", code=422))
    older = ClaimRef(unsorted.namespace, unsorted.name, ClaimUID("older"))
    cluster.status.prepared(older, (GPU,))
    cluster.status.write_next()
    assert cluster.entries() == {} and cluster.status.lost == 1


def test_a_claim_of_the_same_name_that_came_later_is_not_touched(cluster: Cluster) -> None:
    ref = cluster.add()
    cluster.status.prepared(ClaimRef(ref.namespace, ref.name, ClaimUID("older")), (GPU,))
    cluster.status.write_next()
    assert cluster.entries() == {} and cluster.status.lost == 1


def test_it_is_off_once_the_server_forbids_it(cluster: Cluster) -> None:
    refs = [cluster.add(f"c{n}") for n in range(permission.LIMIT)]
    cluster.server.api.faults.add(Fault(verb="apply", code=403, count=0))
    cluster.server.api.faults.add(Fault(verb="patch", code=403, count=0))
    cluster.status.start()
    for ref in refs:
        cluster.status.prepared(ref, (GPU,))
    until(lambda: not cluster.status.is_on)
    before = len(cluster.server.api.log.lines())
    cluster.status.prepared(refs[0], (GPU,))
    time.sleep(0.1)
    assert len(cluster.server.api.log.lines()) == before


def test_a_policy_that_refuses_some_claims_does_not_turn_it_off(cluster: Cluster) -> None:
    """One that was deallocated a moment ago is no longer this node's to write about."""
    refusal = Fault(resource="resourceclaims/status", code=403)
    for number in range(2 * permission.LIMIT):
        cluster.server.api.faults.add(refusal)
        for name in (f"gone-{number}", f"here-{number}"):
            cluster.status.prepared(cluster.add(name), (GPU,))
            assert cluster.status.write_next() == 0.0
        assert cluster.entries(f"here-{number}")
    assert cluster.status.is_on


def test_a_node_without_the_right_asks_once_and_again_much_later(cluster: Cluster) -> None:
    clock, api = FakeClock(), Refused(NO_RIGHT)
    status = ClaimStatusWriter(api, DRIVER, clock)
    for number in range(5):
        status.prepared(ClaimRef("ns", f"c{number}", ClaimUID(f"u{number}")), (GPU,))
        status.write_next()
    assert api.tries == 1 and not status.is_on
    for hours in range(1, 4):
        clock.advance(permission.RETEST_S)
        for number in range(5):
            status.prepared(ClaimRef("ns", f"c{number}", ClaimUID(f"u{number}")), (GPU,))
            status.write_next()
        assert api.tries == 1 + hours
    clock.advance(permission.RETEST_S)
    api.error = None
    for number in range(2):
        status.prepared(ClaimRef("ns", f"c{number}", ClaimUID(f"u{number}")), (GPU,))
        status.write_next()
    assert api.tries == 6 and status.is_on


def test_statuses_kept_back_are_written_once_allowed() -> None:
    clock, api = FakeClock(), Refused(NO_RIGHT)
    status = ClaimStatusWriter(api, DRIVER, clock)
    for number in range(5):
        status.prepared(ClaimRef("ns", f"c{number}", ClaimUID(f"u{number}")), (GPU,))
    for _ in range(3 * 6):  # three hours without a new claim
        assert status.write_next() == permission.RETEST_S
        assert 0 < status.write_next() <= permission.RETEST_S
        clock.advance(permission.RETEST_S)
    assert api.tries == 3 * 6, "one request in ten minutes"
    api.error = None
    for _ in range(6):
        assert status.write_next() == 0.0
    assert api.tries == 3 * 6 + 5 and status.lost == 0


@pytest.mark.parametrize(
    "words",
    [
        f"{NO_RIGHT}: no relationship found between node 'n' and this object",
        "resourceclaims \"c\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: not yours",
    ],
)
def test_a_refusal_of_one_claim_is_not_one_of_all(words: str) -> None:
    api = Refused(words)
    status = ClaimStatusWriter(api, DRIVER, FakeClock())
    for number in range(permission.LIMIT):
        assert status.is_on
        status.prepared(ClaimRef("ns", f"c{number}", ClaimUID(f"u{number}")), (GPU,))
        status.write_next()
    assert not status.is_on, "but several in a row are the rule"


def test_it_stays_on_while_the_credential_is_refused(cluster: Cluster) -> None:
    cluster.server.api.faults.add(Fault(resource="resourceclaims/status", code=401, count=2))
    cluster.status.prepared(cluster.add(), (GPU,))
    pauses_s = [cluster.status.write_next() for _ in range(3)]
    assert pauses_s[0] and pauses_s[1] and not pauses_s[2]
    assert cluster.status.is_on and set(cluster.entries()) == {DRIVER}


def test_a_server_that_hangs_delays_nobody(cluster: Cluster) -> None:
    ref = cluster.add()
    cluster.server.api.faults.add(Fault(action="hang", count=0))
    cluster.status.start()
    started = time.monotonic()
    for _ in range(1000):
        cluster.status.prepared(ref, (GPU,))
    assert time.monotonic() - started < 30
    cluster.server.api.faults.clear()


class OnlyApplied:
    """The part of StatusApi that no apply without a 422 comes to."""

    def get_claim(
        self, namespace: str, name: str, *, deadline: Deadline | None = None
    ) -> dict[str, Any]:
        raise AssertionError("nobody should read")

    def patch_claim_status(
        self, body: dict[str, Any], *, options: WriteOptions, deadline: Deadline | None = None
    ) -> dict[str, Any]:
        raise AssertionError("nobody should patch")


class Refused(OnlyApplied):
    """StatusApi that answers 403."""

    def __init__(self, words: str) -> None:
        self.error: ApiError | None = ApiError(words, status=403)
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


def test_the_newest_word_on_a_claim_is_the_only_one() -> None:
    api = Api(0)
    status = queued(api, "a", "b", "a")
    for _ in range(5):
        assert status.write_next() == 0
    assert api.names == ["b", "a"]


def test_a_failure_is_tried_three_times_with_pauses() -> None:
    api = Api(99)
    status = queued(api, "a")
    pauses = [status.write_next() for _ in range(5)]
    assert api.names == ["a"] * 3 and status.lost == 1
    assert pauses[0] > 0 and pauses[1] > 0 and pauses[2:] == [0, 0, 0]


def test_an_unprepared_claim_is_not_spoken_of() -> None:
    api = Api(0)
    status = queued(api, "a", "b")
    status.forget(ClaimRef("ns", "a", ClaimUID("a")))
    status.write_next()
    assert api.names == ["b"]


def test_the_queue_has_an_end() -> None:
    api = Api(0)
    status = queued(api, *(f"c{n}" for n in range(status_writer.MAX_QUEUED + 10)))
    status.write_next()
    assert (status.lost, api.names) == (10, ["c10"])


def test_shares_are_entries_of_their_own() -> None:
    shares = [
        PreparedDevice(request="g", pool=NODE, device="gpu-0", cdi_ids=(), share_id=share)
        for share in ("s1", "s2")
    ]
    ref = ClaimRef("ns", "a", ClaimUID("a"))
    body = status_writer.to_status(ref, shares, driver=DRIVER, at_s=0)
    assert [entry["shareID"] for entry in body["status"]["devices"]] == ["s1", "s2"]
