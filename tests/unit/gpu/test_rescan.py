"""The rescanner on a fake machine and clock: when it scans, skips hung GPUs and notifies."""

from __future__ import annotations

import threading

from msgspec.structs import replace

from nvdra_core.runtime.clock import SystemClock
from nvdra_core.runtime.workers import Workers
from nvdra_node.gpu.inventory.rescan import Rescanner, RescanSettings
from nvdra_node.gpu.model import GpuState
from tests.fakes.clock import FakeClock
from tests.fakes.host.host import fake_host
from tests.fakes.host.machine import FakeMachine, fake_gpus


class World:
    """A rescanner driven by the test: one pass per two seconds of fake time."""

    def __init__(self, count: int = 4) -> None:
        self.clock = FakeClock()
        self.machine = FakeMachine(fake_gpus(count))
        self.host = fake_host(self.machine, self.clock)
        self.rescanner = Rescanner(self.host, self.clock)
        self.changes = 0
        self.rescanner.subscribe(self._count)

    def _count(self) -> None:
        self.changes += 1

    def run(self, seconds: float) -> None:
        end_s = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end_s:
            self.rescanner.rescan_if_due()
            self.clock.advance(2.0)

    def asked(self, index: int) -> int:
        """Number of NVML reads of this GPU since the last call."""
        count = self.machine.calls.count(("gpu", {"index": index}))
        self.machine.calls = [c for c in self.machine.calls if c != ("gpu", {"index": index})]
        return count

    def states(self) -> list[GpuState]:
        return [gpu.state for gpu in self.rescanner.inventory.gpus]


def test_first_pass_scans_and_notifies() -> None:
    world = World()
    world.rescanner.rescan_if_due()
    assert len(world.states()) == 4 and world.changes == 1


def test_idle_rescanner_scans_once_a_minute() -> None:
    world = World()
    world.run(300)
    assert world.asked(0) == 5 and world.changes == 1


def test_trigger_scans_at_once() -> None:
    world = World()
    world.run(10)
    world.machine.lose(2)
    world.rescanner.trigger("a test")
    world.run(2)
    assert world.states()[2] is GpuState.LOST and world.changes == 2


def test_periodic_scan_finds_loss_and_recovery() -> None:
    world = World()
    world.run(10)
    world.machine.lose(2)
    world.run(60)
    assert world.states()[2] is GpuState.LOST
    world.machine.heal(2)
    world.run(60)
    assert world.states()[2] is GpuState.OK and world.changes == 3


def test_driver_change_is_noticed_within_seconds() -> None:
    world = World()
    world.machine.unload_driver()
    world.run(20)
    assert world.states() == [] and world.changes == 0
    world.machine.load_driver()
    world.run(2)
    assert len(world.states()) == 4
    world.machine.load_driver("590.48.01")
    world.run(2)
    assert {gpu.driver_version for gpu in world.rescanner.inventory.gpus} == {"590.48.01"}
    world.machine.unload_driver()
    world.run(2)
    assert world.states() == [] and world.changes == 3


def test_nvml_is_not_called_without_driver() -> None:
    world = World()
    world.machine.unload_driver()
    world.run(300)
    assert world.machine.calls == []


def test_unready_driver_is_rescanned_within_seconds() -> None:
    world = World()
    host = fake_host(world.machine, world.clock)
    version, world.machine.version = world.machine.version, None  # for NVML; the kernel has it
    sysfs = fake_host(FakeMachine(fake_gpus(4)), world.clock).sysfs
    world.rescanner = Rescanner(replace(host, sysfs=sysfs), world.clock)
    world.run(4)
    assert world.states() == []
    world.machine.version = version  # its device nodes were made
    world.run(8)
    assert len(world.states()) == 4


def test_hung_gpu_is_retried_with_backoff() -> None:
    world = World()
    world.run(2)
    world.machine.hang(1)
    world.rescanner.trigger("a test")
    world.run(3600)
    assert 3 <= world.host.nvml.hangs <= 12
    assert world.asked(0) >= 40
    assert world.states()[1] is GpuState.HUNG
    assert world.changes == 3  # found; no answer yet; given up


def test_hung_gpu_that_answers_recovers_soon() -> None:
    world = World()
    world.run(2)
    world.machine.hang(1)
    world.rescanner.trigger("a test")
    world.run(4)
    world.machine.heal(1)
    world.run(14)
    assert world.states()[1] is GpuState.OK


def test_reload_retries_hung_gpu_and_trigger_does_not() -> None:
    world = World()
    world.machine.hang(1)
    world.run(50)
    world.machine.heal(1)
    world.asked(1)
    world.rescanner.trigger("a test")
    world.run(2)
    assert world.asked(1) == 0
    world.rescanner.reload()
    world.run(2)
    assert world.asked(1) == 1 and world.states()[1] is GpuState.OK


def test_hung_gpu_is_skipped_while_process_is_stuck() -> None:
    world = World()
    world.machine.hang(1)
    world.run(50)
    world.machine.stuck = 1
    world.asked(1)
    world.run(3600)
    assert world.asked(1) == 0
    world.machine.stuck = 0
    world.machine.heal(1)
    world.run(62)
    assert world.states()[1] is GpuState.OK


def test_scans_of_cold_gpus_take_a_tenth_of_the_time() -> None:
    world = World()
    for gpu in world.machine.gpus:
        gpu.is_persistent, gpu.cold_s = False, 20.0
    assert not world.rescanner.wait_settled(0.0)
    world.run(60)
    assert world.rescanner.wait_settled(0.0) and len(world.states()) == 4
    busy_s, idle_s, began_s = 0.0, 0.0, world.clock.monotonic()
    while world.clock.monotonic() - began_s < 3600:
        calls, before_s = len(world.machine.calls), world.clock.monotonic()
        world.rescanner.rescan_if_due()
        busy_s += world.clock.monotonic() - before_s
        idle_s = 0.0 if len(world.machine.calls) > calls else idle_s + 2.0
        if idle_s >= 10.0:
            world.host.nvml.close()  # its process ends for want of calls, and the GPUs are cold
        world.clock.advance(2.0)
    assert 100 < busy_s < 500 and world.host.nvml.hangs == 0
    assert world.states() == [GpuState.OK] * 4 and world.changes <= 5


def test_failed_gpu_is_rescanned_with_backoff() -> None:
    world = World()
    world.run(2)
    world.machine.fail(1, 999)
    world.rescanner.trigger("a test")
    world.asked(1)
    world.run(60)
    assert 4 <= world.asked(1) <= 6


def test_subscriber_sees_new_inventory() -> None:
    world = World()
    seen: list[int] = []
    world.rescanner.subscribe(lambda: seen.append(len(world.rescanner.inventory.gpus)))
    world.rescanner.rescan_if_due()
    assert seen == [4]


def test_thread_starts_scans_reacts_and_stops() -> None:
    machine = FakeMachine(fake_gpus(2))
    clock = SystemClock()
    settings = RescanSettings(driver_poll_s=0.01)
    rescanner = Rescanner(fake_host(machine, clock), clock, settings)
    changed = threading.Event()
    rescanner.subscribe(changed.set)
    rescanner.start()
    try:
        assert rescanner.wait_first(5.0) and changed.wait(5.0)
        changed.clear()
        machine.lose(1)
        rescanner.trigger("a test")
        assert changed.wait(5.0)
        assert rescanner.inventory.gpus[1].state is GpuState.LOST
    finally:
        assert rescanner.stop()


def test_exception_in_thread_is_reported() -> None:
    ended = threading.Event()

    def breaks() -> None:
        raise ValueError("a bug")

    clock = SystemClock()
    workers = Workers(clock)
    workers.on_failure(ended.set)
    rescanner = Rescanner(fake_host(FakeMachine(), clock), clock, workers=workers)
    rescanner.subscribe(breaks)
    rescanner.start()
    assert ended.wait(5.0) and isinstance(workers.failure, ValueError)
    assert rescanner.stop()


def test_driver_reload_between_polls_is_noticed() -> None:
    world = World()
    world.run(10)
    world.machine.reload_driver()
    world.run(4)
    assert world.changes == 2
    assert {gpu.driver_instance for gpu in world.rescanner.inventory.gpus} == {"580.65.06@2"}


def test_changed_drm_nodes_notify_subscribers() -> None:
    world = World()
    world.run(10)
    world.machine.gpus[0].drm = ("card9",)
    world.run(70)
    assert world.changes == 2 and world.rescanner.inventory.gpus[0].drm == ("card9",)
