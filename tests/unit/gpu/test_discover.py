"""Discovery on a fake machine: no GPU spoils the look at another, and what was known is not forgotten."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from nvdra_core.errors import NotReadyError, UnknownDeviceError
from nvdra_core.runtime.clock import FakeClock
from nvdra_node.gpu.discover import Limits, Look, discover
from nvdra_node.gpu.facts import pci_address
from nvdra_node.gpu.model import Gpu, GpuState, Inventory
from nvdra_node.gpu.plan import find_gpu
from tests.fakes.host.host import fake_host
from tests.fakes.host.machine import FakeMachine, fake_gpus


class World:
    """A machine with some GPUs and one who looks at it, remembering the last look."""

    def __init__(self, count: int = 8) -> None:
        self.clock = FakeClock()
        self.machine = FakeMachine(fake_gpus(count))
        self.host = fake_host(self.machine, self.clock)
        self.inventory = Inventory(devices=(), driver_version=None)

    def look(self, *, skip: tuple[int, ...] = (), limits: Limits | None = None) -> Look:
        look = discover(self.host, self.clock, limits=limits, before=self.inventory, skip=skip)
        self.inventory = look.inventory
        return look

    def states(self) -> dict[str, GpuState]:
        return {gpu.name: gpu.state for gpu in self.inventory.devices}

    def sick(self) -> dict[str, GpuState]:
        return {name: state for name, state in self.states().items() if state is not GpuState.OK}


def test_a_healthy_gpu_is_read_whole() -> None:
    world = World(1)
    world.look()
    assert world.inventory == Inventory(
        devices=(
            Gpu(
                index=0,
                driver_instance="580.65.06@1",
                drm=("card1", "renderD128"),
                minor=0,
                uuid="GPU-00000000-0000-4000-8000-000000000000",
                pci_address="0000:18:00.0",
                product_name="NVIDIA H100 80GB HBM3",
                brand="Nvidia",
                architecture="Hopper",
                cuda_compute_capability="9.0.0",
                driver_version="580.65.06",
                cuda_driver_version="13.0.0",
                memory_bytes=85520809984,
                addressing_mode="HMM",
                numa_node=0,
                pcie_root="pci0000:15",
                module_id=1,
                persistence=True,
            ),
        ),
        driver_version="580.65.06",
    )


def test_no_driver_is_an_empty_inventory_and_nvml_is_not_asked() -> None:
    world = World()
    world.look()
    world.machine.unload_driver()
    world.machine.calls.clear()
    look = world.look()
    assert look.complete and look.inventory.devices == () and look.inventory.driver_version is None
    assert world.machine.calls == []


def test_no_gpu_is_fine() -> None:
    world = World(0)
    look = world.look()
    assert look.complete and look.inventory == Inventory(devices=(), driver_version="580.65.06")


def test_one_hung_gpu_does_not_hide_the_others_and_costs_one_deadline() -> None:
    world = World()
    world.machine.hang(3)
    start_s = world.clock.monotonic()
    limits = Limits()
    look = world.look(limits=limits)
    assert world.clock.monotonic() - start_s == limits.step_s + limits.again_s
    assert (look.waiting, look.hung, look.complete) == ((3,), (), False)
    assert list(world.states()) == [f"gpu-{n}" for n in (0, 1, 2, 4, 5, 6, 7)]
    assert any("index 3" in note for note in look.inventory.notes)
    world.clock.advance(60.0)
    assert world.look().hung == (3,)


def test_slow_gpu_with_persistence_mode_is_hung_until_it_answers() -> None:
    world = World(2)
    before = world.look().inventory
    world.machine.hang(1)
    world.look()
    assert world.sick() == {}
    look = world.look()
    assert world.sick() == {"gpu-1": GpuState.HUNG} and look.waiting == (1,)
    world.machine.heal(1)
    assert world.look().inventory == before and world.host.nvml.hangs == 0


def test_cold_gpu_stays_as_it_was_and_is_never_hung() -> None:
    world = World(3)
    for gpu in world.machine.gpus[1:]:
        gpu.is_persistent, gpu.cold_s = False, 6.5
    assert world.look().waiting == (1, 2) and list(world.states()) == ["gpu-0"]
    with pytest.raises(NotReadyError, match="gpu-2 was not read yet"):
        find_gpu(world.inventory, "gpu-2")
    while not world.look().complete:
        world.clock.advance(1.0)
    before = world.inventory
    assert world.sick() == {} and len(before.devices) == 3
    with pytest.raises(UnknownDeviceError):
        find_gpu(world.inventory, "gpu-3")
    assert [note for note in before.notes if "persistence mode is off (gpu-1, gpu-2)" in note]
    world.host.nvml.close()  # nobody has them open any more
    while not (look := world.look()).complete:
        assert look.inventory.devices == before.devices
    assert world.inventory == before and world.host.nvml.hangs == 0


@pytest.mark.parametrize("state", [GpuState.LOST, GpuState.HUNG, GpuState.FAILED])
def test_a_gpu_that_was_known_keeps_its_facts_and_recovers(state: GpuState) -> None:
    world = World()
    before = world.look().inventory
    if state is GpuState.HUNG:
        world.machine.hang(3)
        world.look()
    else:
        world.machine.fail(3, 15 if state is GpuState.LOST else 999)
    world.look()
    assert world.sick() == {"gpu-3": state}
    gpu = world.inventory.devices[3]
    assert gpu.message
    assert replace(gpu, state=GpuState.OK, message="") == before.devices[3]
    world.machine.heal(3)
    assert world.look().inventory == before


def test_a_gpu_lost_in_the_middle_of_reading_is_lost_even_when_never_known() -> None:
    world = World(2)
    world.machine.fail(1, 15, "architecture")
    world.look()
    assert world.sick() == {"gpu-1": GpuState.LOST}
    assert world.inventory.devices[1].architecture == "Unknown"


@pytest.mark.parametrize("fact", ["minor", "uuid", "name", "pci_bus_id"])
def test_a_gpu_that_cannot_be_told_from_others_is_a_note(fact: str) -> None:
    world = World(2)
    world.machine.fail(1, 999, fact)
    look = world.look()
    assert list(world.states()) == ["gpu-0"] and len(look.inventory.notes) == 1


def test_a_gpu_whose_mig_mode_is_unknown_is_not_taken_for_a_full_one() -> None:
    world = World(1)
    world.machine.fail(0, 999, "mig_mode")
    world.look()
    assert world.sick() == {"gpu-0": GpuState.FAILED}


@pytest.mark.parametrize(
    ("fact", "field", "value"),
    [
        ("memory_bytes", "memory_bytes", None),
        ("brand", "brand", "Unknown"),
        ("architecture", "architecture", "Unknown"),
        ("addressing_mode", "addressing_mode", None),
        ("cuda_compute_capability", "cuda_compute_capability", ""),
        ("module_id", "module_id", None),
    ],
)
def test_a_missing_detail_is_noted_and_the_gpu_stays_well(
    fact: str, field: str, value: object
) -> None:
    world = World(1)
    world.machine.fail(0, 999, fact)
    look = world.look()
    (gpu,) = look.inventory.devices
    assert gpu.state is GpuState.OK and getattr(gpu, field) == value
    assert len(look.inventory.notes) == 1


def test_what_the_gpu_does_not_support_is_not_even_noted() -> None:
    world = World(1)
    gpu = world.machine.gpus[0]
    gpu.memory_bytes = gpu.addressing_mode = gpu.mig_mode = gpu.module_id = None
    look = world.look()
    assert look.inventory.notes == ()
    assert look.inventory.devices[0].memory_bytes is None
    assert not look.inventory.devices[0].mig_enabled


def test_enumerators_newer_than_this_release_are_unknown_and_not_fatal() -> None:
    world = World(1)
    world.machine.gpus[0].architecture = 4711
    world.machine.gpus[0].brand = 4711
    world.machine.gpus[0].addressing_mode = 4711
    (gpu,) = world.look().inventory.devices
    assert (gpu.architecture, gpu.brand, gpu.addressing_mode) == ("Unknown", "Unknown", None)
    assert gpu.state is GpuState.OK


@pytest.mark.parametrize("name", ["DGX Display", "NVIDIA DGX Display"])
def test_display_gpus_are_skipped(name: str) -> None:
    world = World(2)
    world.machine.gpus[0].name = name
    look = world.look()
    assert list(world.states()) == ["gpu-1"] and look.inventory.notes == ()


@pytest.mark.parametrize(
    ("bus_id", "address"),
    [
        ("00000000:3B:00.0", "0000:3b:00.0"),
        ("00000009:01:00.0", "0009:01:00.0"),
        ("00010000:01:00.0", "10000:01:00.0"),
        ("nonsense", "nonsense"),
    ],
)
def test_bus_ids_are_written_as_the_kernel_does(bus_id: str, address: str) -> None:
    assert pci_address(bus_id) == address


def test_a_gpu_unknown_to_sysfs_is_kept_without_numa_and_root() -> None:
    world = World(1)
    gpu = world.machine.gpus[0]
    gpu.pci_bus_id = "00000000:FF:00.0"
    host = replace(world.host, sysfs=fake_host(FakeMachine([]), world.clock).sysfs)
    look = discover(host, world.clock)
    assert look.inventory.devices[0].numa_node is None
    assert any("0000:ff:00.0" in note for note in look.inventory.notes)


def test_a_gpu_gone_from_the_bus_is_lost_and_the_others_move_up() -> None:
    world = World(3)
    world.look()
    world.machine.remove(1)
    world.look()
    assert world.sick() == {"gpu-1": GpuState.LOST}
    assert [gpu.index for gpu in world.inventory.devices] == [0, 1, 1]


def test_a_gpu_given_to_another_driver_leaves_the_inventory() -> None:
    world = World(3)
    world.look()
    world.machine.gpus[1].pci_driver = "vfio-pci"
    look = world.look()
    assert list(world.states()) == ["gpu-0", "gpu-2"]
    assert any("vfio-pci" in note for note in look.inventory.notes)


def test_an_unreadable_gpu_is_recognised_after_indices_moved() -> None:
    world = World(4)
    world.look()
    world.machine.gpus[0].pci_driver = "vfio-pci"
    world.look()
    assert world.sick() == {}
    world.machine.lose(3)
    world.look()
    assert world.sick() == {"gpu-3": GpuState.LOST}


def test_a_new_gpu_with_the_name_of_a_lost_one_replaces_it() -> None:
    world = World(2)
    world.look()
    world.machine.gpus[1].uuid = "GPU-ffffffff-0000-4000-8000-000000000000"
    look = world.look()
    assert [gpu.uuid[:12] for gpu in look.inventory.devices] == ["GPU-00000000", "GPU-ffffffff"]
    assert any("is gone" in note for note in look.inventory.notes)


def test_skipped_gpus_are_not_asked_and_stay_as_they_were() -> None:
    world = World(3)
    world.look()
    world.machine.hang(1)
    world.look()
    world.clock.advance(60.0)
    assert world.look().hung == (1,)
    world.machine.calls.clear()
    look = world.look(skip=(1,))
    assert world.sick() == {"gpu-1": GpuState.HUNG} and look.complete and look.hung == ()
    assert ("gpu", {"index": 1}) not in world.machine.calls


def test_many_hung_gpus_end_at_the_total_limit_and_the_rest_stays_known() -> None:
    world = World(8)
    world.look()
    for index in range(6):
        world.machine.hang(index)
    start_s = world.clock.monotonic()
    look = world.look(limits=Limits(gpu_s=2.0, total_s=5.0))
    assert world.clock.monotonic() - start_s <= 5.0
    assert not look.complete
    assert len(world.inventory.devices) == 8
    assert world.states()["gpu-7"] is GpuState.OK


def test_nvml_failing_as_a_whole_keeps_the_gpus_as_failed() -> None:
    world = World(2)
    world.look()
    broken = replace(world.host, nvml=_Broken())
    look = discover(broken, world.clock, before=world.inventory)
    assert not look.complete
    assert [gpu.state for gpu in look.inventory.devices] == [GpuState.FAILED] * 2
    assert look.inventory.driver_version == "580.65.06"


class _Broken:
    """A driver is loaded, and its library is not there."""

    hangs = 0

    def call(self, operation, deadline, **arguments):
        from nvdra_core.errors import HostError

        raise HostError("libnvidia-ml.so.1 is not below the driver root /")

    def stuck(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing to end."""


def test_sick_gpu_keeps_no_number_of_an_earlier_driver() -> None:
    """What else is known of it stays: it cannot be read."""
    world = World(2)
    world.look()
    world.machine.reload_driver()
    world.machine.gpus[0].minor, world.machine.gpus[1].minor = 1, 0
    world.machine.fail(0, 999, "mig_mode")
    world.look()
    gpu = next(gpu for gpu in world.inventory.devices if gpu.uuid == world.machine.gpus[0].uuid)
    assert gpu.state is GpuState.FAILED and gpu.product_name
    assert (gpu.minor, gpu.driver_instance) == (1, "580.65.06@2")
    assert gpu.drm == ("card2", "renderD129")


def test_unreadable_device_node_fails_its_gpu_alone() -> None:
    world = World(3)
    world.machine.unreadable_nodes.add("/dev/nvidia1")
    world.look()
    assert world.sick() == {"gpu-1": GpuState.FAILED}
    assert "Permission denied" in world.inventory.devices[1].message


@pytest.mark.parametrize(("deaths", "sick"), [(1, 0), (2, 3)])
def test_killed_nvml_process_fails_gpus_only_if_the_next_dies(deaths: int, sick: int) -> None:
    world = World(3)
    world.look()
    world.machine.nvml_deaths = deaths
    world.look()
    assert len(world.sick()) == sick
