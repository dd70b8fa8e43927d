"""Pod events of waiting claims: when they are written, and for which pods."""

from __future__ import annotations

from typing import Any

import pytest

from nvdra_core.errors import ApiError
from nvdra_core.kube.resources import EVENTS
from nvdra_node.checkpoint.claim import ClaimRef, ClaimUID
from nvdra_node.kube import permission
from nvdra_node.kubeletplugin.claims.wait_events import (
    MAX_PODS,
    MIN_INTERVAL_S,
    MIN_WAIT_S,
    REASON,
    WaitEvents,
)
from nvdra_node.kubeletplugin.events import EventSource
from tests.fakes.clock import FakeClock

REF = ClaimRef("team", "channel", ClaimUID("c-1"))
CAUSE = "nvidia-imex is INITIALIZING"


class Api:
    """One claim, and the events that were made."""

    def __init__(self, *pods: str, uid: str = "c-1") -> None:
        reserved = [{"resource": "pods", "name": name, "uid": f"uid-{name}"} for name in pods]
        self.claim: dict[str, Any] = {"metadata": {"uid": uid}, "status": {"reservedFor": reserved}}
        self.events: list[dict[str, Any]] = []
        self.error: ApiError | None = None
        self.claim_error: ApiError | None = None

    def get_claim(self, namespace: str, name: str, *, deadline: Any = None) -> dict[str, Any]:
        assert (namespace, name) == ("team", "channel")
        if self.claim_error is not None:
            raise self.claim_error
        return self.claim

    def create(
        self, resource: Any, body: dict[str, Any], *, deadline: Any = None
    ) -> dict[str, Any]:
        assert resource == EVENTS
        if self.error is not None:
            raise self.error
        self.events.append(body)
        return body


def written(api: Api) -> list[tuple[str, str]]:
    return [(event["involvedObject"]["name"], event["message"]) for event in api.events]


def waiting(api: Api) -> tuple[WaitEvents, FakeClock]:
    clock = FakeClock()
    return WaitEvents(api, api, EventSource("nvdra-test", "node-1"), clock), clock


def test_each_pod_gets_one_event_per_cause():
    api = Api("a", "b")
    made, clock = waiting(api)
    for second in range(12):
        made.waiting(REF, CAUSE, MIN_WAIT_S + second)
        made.outbox.write_next()
        clock.advance(3)
    text = f"claim channel is not prepared yet: {CAUSE}"
    assert written(api) == [("a", text), ("b", text)]
    assert api.events[0]["reason"] == REASON
    assert api.events[0]["involvedObject"]["uid"] == "uid-a"


def test_event_names_the_node_that_wrote_it():
    api = Api("a")
    made, _ = waiting(api)
    made.waiting(REF, CAUSE, MIN_WAIT_S)
    made.outbox.write_next()
    [event] = api.events
    assert event["source"] == {"component": "nvdra-test", "host": "node-1"}
    assert (event["reportingComponent"], event["reportingInstance"]) == ("nvdra-test", "node-1")


def test_short_wait_writes_no_event():
    api = Api("a")
    made, _ = waiting(api)
    made.waiting(REF, CAUSE, MIN_WAIT_S - 1)
    made.outbox.write_next()
    made.waiting(REF, CAUSE, MIN_WAIT_S)
    made.done(REF)
    made.outbox.write_next()
    assert not api.events


def test_other_cause_is_written_after_min_interval():
    api = Api("a")
    made, clock = waiting(api)
    for cause in (CAUSE, "x", "y"):
        made.waiting(REF, cause, 10)
        made.outbox.write_next()
    assert len(api.events) == 1
    clock.advance(MIN_INTERVAL_S)
    made.waiting(REF, "z", 30)
    made.outbox.write_next()
    assert written(api)[1][1].endswith(": z")


def test_only_pods_of_this_claim_get_events():
    other = Api("a", uid="c-2")
    made, _ = waiting(other)
    made.waiting(REF, CAUSE, 10)
    made.outbox.write_next()
    assert not other.events
    api = Api(*(f"p{number}" for number in range(MAX_PODS + 3)))
    api.claim["status"]["reservedFor"].insert(
        0, {"apiGroup": "x", "resource": "pods", "name": "x", "uid": "x"}
    )
    made, _ = waiting(api)
    made.waiting(REF, CAUSE, 10)
    made.outbox.write_next()
    assert len(api.events) == MAX_PODS
    assert "x" not in [name for name, _ in written(api)]


@pytest.mark.parametrize(("status", "is_on"), [(403, False), (409, True), (500, True)])
def test_repeated_403_disables_and_never_raises(status: int, is_on: bool):
    api = Api("a")
    api.error = ApiError("no", status=status)
    made, clock = waiting(api)
    for _ in range(permission.LIMIT):
        assert made.is_on
        made.waiting(REF, CAUSE, 10)
        made.outbox.write_next()
        made.done(REF)
        clock.advance(MIN_INTERVAL_S)
    assert made.is_on is is_on


def test_403_of_some_namespaces_does_not_disable():
    api = Api("a")
    made, _ = waiting(api)
    for _ in range(2 * permission.LIMIT):
        for refused in (True, False):
            api.error = ApiError("being terminated", status=403) if refused else None
            made.waiting(REF, CAUSE, 10)
            made.outbox.write_next()
            made.done(REF)
    assert made.is_on and len(api.events) == 2 * permission.LIMIT


def test_refused_claim_reads_do_not_disable():
    api = Api("a")
    api.claim_error = ApiError("no pod names it", status=403)
    made, _ = waiting(api)
    for _ in range(2 * permission.LIMIT):
        made.waiting(REF, CAUSE, 10)
        made.outbox.write_next()
        made.done(REF)
    assert made.is_on
