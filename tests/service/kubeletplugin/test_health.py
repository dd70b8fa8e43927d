"""Health streams: the complete list at once, on change and periodically; ended by either side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nvdra_core.runtime.clock import SystemClock
from nvdra_node.kubeletplugin.driver import DeviceHealth, Health
from nvdra_node.kubeletplugin.kubelet import health
from nvdra_node.rpc.messages import dra_health_v1_pb2
from tests.beds.services.kubelet import Plugin
from tests.beds.services.plugin import TestPlugin
from tests.lib.waits import until

VERSIONS = ("v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth")


@pytest.mark.parametrize("version", VERSIONS)
def test_health_list_is_sent_at_once_and_on_change(
    plugin: TestPlugin, registered: Plugin, version: str
) -> None:
    with registered.health(version) as stream:
        (device,) = next(stream).devices
        assert (device.device.pool_name, device.device.device_name) == ("node-1", "gpu-0")
        assert device.health == dra_health_v1_pb2.HEALTHY
        assert device.health_check_timeout_seconds == health.TIMEOUT_S
        assert 0 <= time.time() - device.last_updated_time < 60
        plugin.healths.append(
            DeviceHealth(device="gpu-1", health=Health.UNHEALTHY, message="x" * 2000)
        )
        started_s = time.monotonic()
        plugin.health.changed()
        first, second = next(stream).devices
        assert (
            time.monotonic() - started_s < health.TIMEOUT_S / 3 / 2
        )  # before the periodic repetition
        assert first.device.device_name == "gpu-0"  # complete, not only what changed
        assert second.health == dra_health_v1_pb2.UNHEALTHY and len(second.message) == 1024


def test_health_stream_ends_when_client_cancels(plugin: TestPlugin, registered: Plugin) -> None:
    with registered.health() as stream:
        next(stream)
        assert plugin.health.open_streams() == 1
    until(lambda: plugin.health.open_streams() == 0)


def test_health_streams_end_on_stop(plugin: TestPlugin, registered: Plugin) -> None:
    with registered.health() as stream:
        next(stream)
        plugin.health.stop()
        assert list(stream) == []
    with registered.health() as late:
        assert list(late) == []


def test_oldest_health_stream_is_ended_above_limit(plugin: TestPlugin, registered: Plugin) -> None:
    managers = [registered.health() for _ in range(health.MAX_STREAMS + 1)]
    streams = []
    for manager in managers:
        streams.append(manager.__enter__())
        next(streams[-1])
    assert list(streams[0]) == []  # ended by us, and the kubelet opens a new one
    until(lambda: plugin.health.open_streams() == health.MAX_STREAMS)
    for manager in managers:
        manager.__exit__(None, None, None)


class OneReport(SystemClock):
    """Records requested waits and returns at once."""

    def __init__(self) -> None:
        self.waited_s: list[float] = []

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self.waited_s.append(timeout_s)
        return False


class OpenCall:
    """A server context whose client stays."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return True


def test_health_list_is_repeated_every_third_of_timeout(directory: Path) -> None:
    clock = OneReport()
    service = health.HealthService("node-1", lambda: (), clock)
    reports: Any = service.watch(dra_health_v1_pb2, OpenCall())
    next(reports)
    next(reports)
    assert clock.waited_s == [health.TIMEOUT_S / 3]
    reports.close()
    assert service.open_streams() == 0
