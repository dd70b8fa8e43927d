"""A watch of the controller that is refused: patience, and a readiness that says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from nvdra_cluster.control.watching import LASTED_S, TROUBLE_S, Interest, Watching
from nvdra_cluster.decide.writes import DOMAINS
from nvdra_core.kube.client import Client
from nvdra_core.runtime.clock import FakeClock
from tests.beds.services.controller_rack import Rack
from tests.beds.services.replica import FAST
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.server import FakeApiServer
from tests.lib.waits import wait_until

ENOUGH = 8


class CountingClock(FakeClock):
    """Notes the pauses, and says when there were enough of them."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self.enough = threading.Event()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self.pauses.append(timeout_s)
        if len(self.pauses) >= ENOUGH:
            self.enough.set()
            return event.wait(30.0)
        return super().wait(event, timeout_s)


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    server = FakeApiServer()
    server.start()
    yield server
    server.stop()


def test_where_only_the_watch_is_refused_lists_do_not_follow_each_other_without_a_rest(
    server: FakeApiServer,
):
    """Of 10,000 Nodes each."""
    server.api.faults.add(Fault(verb="watch", code=403, count=0))
    clock, client = CountingClock(), Client(server.config(), settings=FAST)
    interest = Interest(
        resource=DOMAINS, put=lambda obj: None, drop=lambda path, uid: None,
        tombstone=lambda uid, version: None, known=set,
    )  # fmt: skip
    watching = Watching(client, interest, clock)
    thread = threading.Thread(target=watching.run)
    thread.start()
    assert clock.enough.wait(30.0)
    watching.stop()
    thread.join(30.0)
    client.close()
    assert clock.pauses[-1] > 10 * clock.pauses[0]


def test_a_replica_that_is_told_nothing_any_more_is_not_ready():
    with Rack() as rack:
        replica = rack.start()
        wait_until("ready", lambda: replica.manager.unready() == [])
        rack.server.api.faults.add(Fault(verb="watch", resource="nodes", code=403, count=0))
        next(w for w in replica.manager.watchings if w.name == "nodes").interrupt()

        def problems() -> str:
            rack.advance(TROUBLE_S)
            return "; ".join(replica.manager.unready())

        wait_until("it says so", lambda: "nodes" in problems() and "403" in problems())
        rack.server.api.faults.clear()

        def is_well() -> bool:
            rack.advance(LASTED_S)
            return replica.manager.unready() == []

        wait_until("ready again", is_well)
