"""What the controller writes while nodes join: at once what a pod waits for, everything else in batches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.beds.services.controller_rack import Rack
from tests.lib.waits import wait_until

COUNT = 12


@pytest.fixture
def rack() -> Iterator[Rack]:
    with Rack() as made:
        made.start()
        yield made


def members(rack: Rack, node: str) -> list[int]:
    """Slots that a node knows to take part in its domain."""
    (domain,) = rack.spec(node).get("domains") or [{}]
    found: list[int] = domain.get("members") or []
    return found


def test_joining_peers_are_written_together(rack: Rack):
    trays = [rack.tray(f"tray-{index}") for index in range(COUNT)]
    for tray in trays:
        tray.report()
    rack.create_domain()
    wait_until("slots", lambda: all("slot" in rack.spec(tray.name) for tray in trays))
    rack.settle()
    rack.server.api.log.clear()
    for tray in trays:
        rack.claim(tray.name)
        tray.wait_for(lambda spec: bool(spec.get("domains")))
    wait_until("all know all", lambda: all(len(members(rack, t.name)) == COUNT for t in trays))
    rack.settle()
    count = rack.server.api.log.count("patch", "fabricnodes")
    print(f"{count} writes to tell {COUNT} nodes of each other")
    assert COUNT <= count < COUNT * (COUNT + 1) / 2, "not one for each pair"
