"""The watch on a fake machine and fake time: when it looks, when it leaves a GPU alone, when it tells."""

from __future__ import annotations

import threading

from msgspec.structs import replace

from nvdra_core.runtime.clock import FakeClock, SystemClock
from nvdra_core.runtime.workers import Workers
from nvdra_node.gpu.model import GpuState
from nvdra_node.gpu.rescan import Watch, WatchSettings
from tests.fakes.host.host import fake_host
from tests.fakes.host.machine import FakeMachine, fake_gpus


class World:
    """A watch that is ticked by hand, every two seconds of fake time."""

    def __init__(self, count: int = 4) -> None:
        self.clock = FakeClock()
        self.machine = FakeMachine(fake_gpus(count))
        self.host = fake_host(self.machine, self.clock)
        self.watch = Watch(self.host, self.clock)
        self.changes = 0
        self.watch.subscribe(self._count)

    def _count(self) -> None:
        self.changes += 1

    def run(self, seconds: float) -> None:
        end_s = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end_s:
            self.watch.tick()
            self.clock.advance(2.0)

    def asked(self, index: int) -> int:
        """How often NVML was asked for this GPU since the last time."""
        count = self.machine.calls.count(("gpu", {"index": index}))
        self.machine.calls = [c for c in self.machine.calls if c != ("gpu", {"index": index})]
        return count

    def states(self) -> list[GpuState]:
        return [gpu.state for gpu in self.watch.inventory.devices]


def test_the_first_turn_looks_and_tells() -> None:
    world = World()
    world.watch.tick()
    assert len(world.states()) == 4 and world.changes == 1


def test_without_a_reason_it_looks_once_a_minute_and_tells_nothing() -> None:
    world = World()
    world.run(300)
    assert world.asked(0) == 5 and world.changes == 1


def test_a_trigger_looks_at_once() -> None:
    world = World()
    world.run(10)
    world.machine.lose(2)
    world.watch.trigger("a test")
    world.run(2)
    assert world.states()[2] is GpuState.LOST and world.changes == 2


def test_a_lost_gpu_is_found_lost_and_recovered_by_the_periodic_look() -> None:
    world = World()
    world.run(10)
    world.machine.lose(2)
    world.run(60)
    assert world.states()[2] is GpuState.LOST
    world.machine.heal(2)
    world.run(60)
    assert world.states()[2] is GpuState.OK and world.changes == 3


def test_the_driver_is_seen_within_seconds_when_it_comes_goes_and_changes() -> None:
    world = World()
    world.machine.unload_driver()
    world.run(20)
    assert world.states() == [] and world.changes == 0
    world.machine.load_driver()
    world.run(2)
    assert len(world.states()) == 4
    world.machine.load_driver("590.48.01")
    world.run(2)
    assert {gpu.driver_version for gpu in world.watch.inventory.devices} == {"590.48.01"}
    world.machine.unload_driver()
    world.run(2)
    assert world.states() == [] and world.changes == 3


def test_without_a_driver_nvml_is_never_asked() -> None:
    world = World()
    world.machine.unload_driver()
    world.run(300)
    assert world.machine.calls == []


def test_a_driver_that_nvml_cannot_talk_to_yet_is_asked_again_within_seconds() -> None:
    world = World()
    host = fake_host(world.machine, world.clock)
    version, world.machine.version = world.machine.version, None  # for NVML; the kernel has it
    sysfs = fake_host(FakeMachine(fake_gpus(4)), world.clock).sysfs
    world.watch = Watch(replace(host, sysfs=sysfs), world.clock)
    world.run(4)
    assert world.states() == []
    world.machine.version = version  # its device nodes were made
    world.run(8)
    assert len(world.states()) == 4


def test_a_hung_gpu_is_asked_less_and_less_and_the_others_as_always() -> None:
    world = World()
    world.run(2)
    world.machine.hang(1)
    world.watch.trigger("a test")
    world.run(3600)
    assert 3 <= world.host.nvml.hangs <= 12
    assert world.asked(0) >= 40
    assert world.states()[1] is GpuState.HUNG
    assert world.changes == 3  # found; no answer yet; given up


def test_a_hung_gpu_that_answers_again_is_taken_back_soon() -> None:
    world = World()
    world.run(2)
    world.machine.hang(1)
    world.watch.trigger("a test")
    world.run(4)
    world.machine.heal(1)
    world.run(14)
    assert world.states()[1] is GpuState.OK


def test_a_reload_asks_a_hung_gpu_as_well_and_a_trigger_does_not() -> None:
    world = World()
    world.machine.hang(1)
    world.run(50)
    world.machine.heal(1)
    world.asked(1)
    world.watch.trigger("a test")
    world.run(2)
    assert world.asked(1) == 0
    world.watch.reload()
    world.run(2)
    assert world.asked(1) == 1 and world.states()[1] is GpuState.OK


def test_a_hung_gpu_is_left_alone_while_the_kernel_holds_a_process_that_asked_it() -> None:
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


def test_looks_at_cold_gpus_leave_them_alone_most_of_the_time() -> None:
    world = World()
    for gpu in world.machine.gpus:
        gpu.is_persistent, gpu.cold_s = False, 20.0
    assert not world.watch.wait_settled(0.0)
    world.run(60)
    assert world.watch.wait_settled(0.0) and len(world.states()) == 4
    busy_s, idle_s, began_s = 0.0, 0.0, world.clock.monotonic()
    while world.clock.monotonic() - began_s < 3600:
        calls, before_s = len(world.machine.calls), world.clock.monotonic()
        world.watch.tick()
        busy_s += world.clock.monotonic() - before_s
        idle_s = 0.0 if len(world.machine.calls) > calls else idle_s + 2.0
        if idle_s >= 10.0:
            world.host.nvml.close()  # its process ends for want of calls, and the GPUs are cold
        world.clock.advance(2.0)
    assert 100 < busy_s < 500 and world.host.nvml.hangs == 0
    assert world.states() == [GpuState.OK] * 4 and world.changes <= 5


def test_a_failed_gpu_is_looked_at_sooner_and_with_growing_pauses() -> None:
    world = World()
    world.run(2)
    world.machine.fail(1, 999)
    world.watch.trigger("a test")
    world.asked(1)
    world.run(60)
    assert 4 <= world.asked(1) <= 6


def test_a_subscriber_sees_the_new_inventory() -> None:
    world = World()
    seen: list[int] = []
    world.watch.subscribe(lambda: seen.append(len(world.watch.inventory.devices)))
    world.watch.tick()
    assert seen == [4]


def test_the_thread_starts_looks_reacts_and_stops() -> None:
    machine = FakeMachine(fake_gpus(2))
    clock = SystemClock()
    settings = WatchSettings(driver_poll_s=0.01)
    watch = Watch(fake_host(machine, clock), clock, settings)
    changed = threading.Event()
    watch.subscribe(changed.set)
    watch.start()
    try:
        assert watch.wait_first(5.0) and changed.wait(5.0)
        changed.clear()
        machine.lose(1)
        watch.trigger("a test")
        assert changed.wait(5.0)
        assert watch.inventory.devices[1].state is GpuState.LOST
    finally:
        assert watch.stop()


def test_a_bug_in_the_thread_is_reported_and_not_swallowed() -> None:
    ended = threading.Event()

    def breaks() -> None:
        raise ValueError("a bug")

    clock = SystemClock()
    workers = Workers(clock)
    workers.on_failure(ended.set)
    watch = Watch(fake_host(FakeMachine(), clock), clock, workers=workers)
    watch.subscribe(breaks)
    watch.start()
    assert ended.wait(5.0) and isinstance(workers.failure, ValueError)
    assert watch.stop()


def test_driver_loaded_again_between_two_polls_is_noticed() -> None:
    world = World()
    world.run(10)
    world.machine.reload_driver()
    world.run(4)
    assert world.changes == 2
    assert {gpu.driver_instance for gpu in world.watch.inventory.devices} == {"580.65.06@2"}


def test_drm_nodes_that_moved_are_told() -> None:
    world = World()
    world.run(10)
    world.machine.gpus[0].drm = ("card9",)
    world.run(70)
    assert world.changes == 2 and world.watch.inventory.devices[0].drm == ("card9",)
