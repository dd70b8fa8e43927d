"""Waiting for NVML events beside discovery, on the simulated library."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.gpu.inventory.discover import discover
from nvdra_node.gpu.inventory.rescan import Rescanner
from nvdra_node.host.host import Host, open_host
from nvdra_node.host.nvml import ChildNvml, ChildSettings
from nvdra_node.host.ports import HostRoots
from tests.sim.api import SimRoot

pytestmark = pytest.mark.sim
CLOCK = SystemClock()


@pytest.fixture
def root(tmp_path: Path) -> SimRoot:
    return SimRoot.create(tmp_path / "host", "h100x8")


@pytest.fixture
def host(root: SimRoot) -> Iterator[Host]:
    roots = HostRoots(driver=root.path, dev=root.path / "dev", proc=root.proc, sys=root.sys)
    opened = open_host(roots, ChildSettings(hung_s=2.0))
    yield opened
    opened.close()


def wait(host: Host, timeout_ms: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = host.events.call(
        "wait_events", Deadline(60, CLOCK), timeout_ms=timeout_ms
    )
    return found


def test_wait_for_events_delays_no_discovery(root: SimRoot, host: Host) -> None:
    host.events.call("watch_events", Deadline(60, CLOCK))
    found: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: found.extend(wait(host, 30_000)))
    waiting.start()
    for _ in range(3):
        assert discover(host, CLOCK).is_complete
    assert waiting.is_alive()
    root.xid(5, 79)
    waiting.join(20)
    assert [event["data"] for event in found] == [79]


def test_hung_discovery_call_keeps_event_subscription(root: SimRoot, host: Host) -> None:
    host.events.call("watch_events", Deadline(60, CLOCK))
    root.fault("nvmlDeviceGetMemoryInfo", gpu=3, hang=True)
    limit = Deadline(60, CLOCK)
    while not discover(host, CLOCK).hung and limit.remaining_s():
        pass
    assert host.nvml.hangs, "a child of discovery was replaced"
    root.xid(2, 48)
    assert [event["data"] for event in wait(host, 5_000)] == [48]


def test_driver_change_ends_event_session(root: SimRoot, host: Host) -> None:
    """An open session keeps the kernel module loaded."""
    host.events.call("watch_events", Deadline(60, CLOCK))
    rescanner = Rescanner(host, CLOCK)
    rescanner.rescan_if_due()
    host.events.call("watch_events", Deadline(60, CLOCK))
    root.unload_driver()
    rescanner.rescan_if_due()
    assert isinstance(host.events, ChildNvml) and host.events.pid is None
