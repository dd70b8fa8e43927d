"""Readiness of a replica whose watch is refused."""

from __future__ import annotations

from nvdra_cluster.control.reflectors import FAILURE_LIMIT_S
from tests.beds.services.controller_rack import Rack
from tests.fakes.apiserver.faults import Fault
from tests.lib.waits import wait_until


def test_replica_with_refused_watch_is_not_ready():
    with Rack() as rack:
        manager = rack.start().manager
        wait_until("ready", lambda: manager.unready() == [])
        rack.server.api.faults.add(Fault(verb="watch", resource="nodes", code=403, count=0))
        rack.server.end_connections()

        def problems() -> str:
            rack.advance(FAILURE_LIMIT_S)
            return "; ".join(manager.unready())

        wait_until("not ready", lambda: "nodes" in problems() and "403" in problems())
        rack.server.api.faults.clear()
        wait_until("ready again", lambda: manager.unready() == [])
