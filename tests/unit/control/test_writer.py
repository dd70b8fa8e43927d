"""Writes are done in the name of the leader, and never later than it can be sure to be the leader."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from nvdra_cluster.control.reconciler import Plan
from nvdra_cluster.control.state.cache import Key, Kind
from nvdra_cluster.control.writer import PARALLEL, TIMEOUT_S, NotLeaderError, Writer
from nvdra_cluster.decide.writes import FABRIC_NODES, Create
from nvdra_core.kube.client import DEFAULT_WRITE
from nvdra_core.kube.resources import JsonObject, Resource, WriteOptions
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.kube.client import Client

GROUPS = [
    Plan(Key(Kind.NODE, name), (Create(FABRIC_NODES, {"metadata": {"name": name}}),))
    for name in ("a", "b", "c")
]


class NotedClient(Client):
    """Stores nothing, and notes how long each write had."""

    def __init__(self) -> None:
        self.had_s: list[float] = []
        self.pause: threading.Barrier | None = None
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def create(
        self,
        resource: Resource,
        body: JsonObject,
        *,
        options: WriteOptions = DEFAULT_WRITE,
        deadline: Deadline | None = None,
    ) -> JsonObject:
        assert deadline is not None
        with self._lock:
            self.had_s.append(deadline.remaining_s())
            self._now += 1
            self.most = max(self.most, self._now)
        if self.pause is not None:
            self.pause.wait(30.0)
        with self._lock:
            self._now -= 1
        return body


class Lead:
    """How long this replica leads for."""

    left_s = 8.0

    def __call__(self) -> float:
        return self.left_s


@pytest.fixture
def made() -> Iterator[tuple[Writer, NotedClient, Lead]]:
    client, lead = NotedClient(), Lead()
    writer = Writer(client, SystemClock(), lead, CollectorRegistry())
    yield writer, client, lead
    writer.close()


def test_no_write_may_outlast_lease(made: Any):
    """It would land in the time of the next leader, who knows nothing of it."""
    writer, client, lead = made
    writer.run(GROUPS)
    lead.left_s = 1000.0
    writer.run(GROUPS)
    assert max(client.had_s[:3]) <= 8.0
    assert 8.0 < max(client.had_s[3:]) <= TIMEOUT_S


def test_many_writes_go_eight_at_time_and_no_more(made: Any):
    writer, client, _ = made
    client.pause = threading.Barrier(PARALLEL)  # so many must be under way at once for any to end
    outcomes = writer.run([GROUPS[0]] * (4 * PARALLEL))
    assert [outcome.error for outcome in outcomes] == [None] * (4 * PARALLEL)
    assert client.most == PARALLEL


def test_standby_sends_nothing(made: Any):
    writer, client, lead = made
    lead.left_s = 0.0
    assert all(isinstance(outcome.error, NotLeaderError) for outcome in writer.run(GROUPS))
    assert client.had_s == []


def test_writer_that_was_stopped_sends_nothing_and_says_so(made: Any):
    writer, client, _ = made
    writer.stop()
    assert all(isinstance(outcome.error, NotLeaderError) for outcome in writer.run(GROUPS))
    assert client.had_s == []
