"""GPU scans on a fake machine: faults stay with their GPU, known facts are kept."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from nvdra_core.errors import NotReadyError, UnknownDeviceError
from nvdra_node.gpu import catalog
from nvdra_node.gpu.inventory.discover import ScanResult, discover
from nvdra_node.gpu.inventory.facts import pci_address
from nvdra_node.gpu.inventory.scan import Limits
from nvdra_node.gpu.kinds.base import Device
from nvdra_node.gpu.model import Gpu, GpuState, Inventory
from tests.beds.memory.gpu_objects import shipped_kinds
from tests.fakes.clock import FakeClock
from tests.fakes.host.host import fake_host
from tests.fakes.host.machine import FakeMachine, fake_gpus


def find_device(inventory: Inventory, name: str) -> Device:
    return catalog.build(inventory, shipped_kinds().values()).find(name)


class World:
    """A machine with GPUs, and the inventory of the last scan."""

    def __init__(self, count: int = 8) -> None:
        self.clock = FakeClock()
        self.machine = FakeMachine(fake_gpus(count))
        self.host = fake_host(self.machine, self.clock)
        self.inventory = Inventory(gpus=(), driver_version=None)

    def scan(self, *, skip: tuple[int, ...] = (), limits: Limits | None = None) -> ScanResult:
        result = discover(self.host, self.clock, limits=limits, before=self.inventory, skip=skip)
        self.inventory = result.inventory
        return result

    def states(self) -> dict[str, GpuState]:
        return {gpu.name: gpu.state for gpu in self.inventory.gpus}

    def sick(self) -> dict[str, GpuState]:
        return {name: state for name, state in self.states().items() if state is not GpuState.OK}


def test_healthy_gpu_has_all_facts() -> None:
    world = World(1)
    world.scan()
    assert world.inventory == Inventory(
        gpus=(
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


def test_no_driver_gives_empty_inventory_without_nvml() -> None:
    world = World()
    world.scan()
    world.machine.unload_driver()
    world.machine.calls.clear()
    result = world.scan()
    assert (
        result.is_complete
        and result.inventory.gpus == ()
        and result.inventory.driver_version is None
    )
    assert world.machine.calls == []


def test_driver_without_gpus_gives_empty_inventory() -> None:
    world = World(0)
    result = world.scan()
    assert result.is_complete and result.inventory == Inventory(gpus=(), driver_version="580.65.06")


def test_hung_gpu_hides_no_other_and_costs_one_limit() -> None:
    world = World()
    world.machine.hang(3)
    start_s = world.clock.monotonic()
    limits = Limits()
    result = world.scan(limits=limits)
    assert world.clock.monotonic() - start_s == limits.step_s + limits.again_s
    assert (result.waiting, result.hung, result.is_complete) == ((3,), (), False)
    assert list(world.states()) == [f"gpu-{n}" for n in (0, 1, 2, 4, 5, 6, 7)]
    assert any("index 3" in note for note in result.inventory.notes)
    world.clock.advance(60.0)
    assert world.scan().hung == (3,)


def test_slow_persistent_gpu_is_hung_until_it_answers() -> None:
    world = World(2)
    before = world.scan().inventory
    world.machine.hang(1)
    world.scan()
    assert world.sick() == {}
    result = world.scan()
    assert world.sick() == {"gpu-1": GpuState.HUNG} and result.waiting == (1,)
    world.machine.heal(1)
    assert world.scan().inventory == before and world.host.nvml.hangs == 0


def test_cold_gpu_keeps_its_state_and_is_never_hung() -> None:
    world = World(3)
    for gpu in world.machine.gpus[1:]:
        gpu.is_persistent, gpu.cold_s = False, 6.5
    assert world.scan().waiting == (1, 2) and list(world.states()) == ["gpu-0"]
    with pytest.raises(NotReadyError, match="gpu-2 was not read yet"):
        find_device(world.inventory, "gpu-2")
    while not world.scan().is_complete:
        world.clock.advance(1.0)
    before = world.inventory
    assert world.sick() == {} and len(before.gpus) == 3
    with pytest.raises(UnknownDeviceError):
        find_device(world.inventory, "gpu-3")
    assert [note for note in before.notes if "persistence mode is off (gpu-1, gpu-2)" in note]
    world.host.nvml.close()  # the last process that had them open
    while not (result := world.scan()).is_complete:
        assert result.inventory.gpus == before.gpus
    assert world.inventory == before and world.host.nvml.hangs == 0


@pytest.mark.parametrize("state", [GpuState.LOST, GpuState.HUNG, GpuState.FAILED])
def test_known_gpu_keeps_facts_while_unhealthy(state: GpuState) -> None:
    world = World()
    before = world.scan().inventory
    if state is GpuState.HUNG:
        world.machine.hang(3)
        world.scan()
    else:
        world.machine.fail(3, 15 if state is GpuState.LOST else 999)
    world.scan()
    assert world.sick() == {"gpu-3": state}
    gpu = world.inventory.gpus[3]
    assert gpu.message
    assert replace(gpu, state=GpuState.OK, message="") == before.gpus[3]
    world.machine.heal(3)
    assert world.scan().inventory == before


def test_gpu_lost_during_first_read_is_lost() -> None:
    world = World(2)
    world.machine.fail(1, 15, "architecture")
    world.scan()
    assert world.sick() == {"gpu-1": GpuState.LOST}
    assert world.inventory.gpus[1].architecture == "Unknown"


@pytest.mark.parametrize("fact", ["minor", "uuid", "name", "pci_bus_id"])
def test_unidentifiable_gpu_becomes_note(fact: str) -> None:
    world = World(2)
    world.machine.fail(1, 999, fact)
    result = world.scan()
    assert list(world.states()) == ["gpu-0"] and len(result.inventory.notes) == 1


def test_unknown_mig_mode_is_failed() -> None:
    world = World(1)
    world.machine.fail(0, 999, "mig_mode")
    world.scan()
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
def test_missing_detail_is_noted_and_gpu_stays_ok(fact: str, field: str, value: object) -> None:
    world = World(1)
    world.machine.fail(0, 999, fact)
    result = world.scan()
    (gpu,) = result.inventory.gpus
    assert gpu.state is GpuState.OK and getattr(gpu, field) == value
    assert len(result.inventory.notes) == 1


def test_unsupported_facts_are_not_noted() -> None:
    world = World(1)
    gpu = world.machine.gpus[0]
    gpu.memory_bytes = gpu.addressing_mode = gpu.mig_mode = gpu.module_id = None
    result = world.scan()
    assert result.inventory.notes == ()
    assert result.inventory.gpus[0].memory_bytes is None
    assert not result.inventory.gpus[0].mig_enabled


def test_newer_enumerators_are_unknown() -> None:
    world = World(1)
    world.machine.gpus[0].architecture = 4711
    world.machine.gpus[0].brand = 4711
    world.machine.gpus[0].addressing_mode = 4711
    (gpu,) = world.scan().inventory.gpus
    assert (gpu.architecture, gpu.brand, gpu.addressing_mode) == ("Unknown", "Unknown", None)
    assert gpu.state is GpuState.OK


@pytest.mark.parametrize("name", ["DGX Display", "NVIDIA DGX Display"])
def test_display_gpus_are_skipped(name: str) -> None:
    world = World(2)
    world.machine.gpus[0].name = name
    result = world.scan()
    assert list(world.states()) == ["gpu-1"] and result.inventory.notes == ()


@pytest.mark.parametrize(
    ("bus_id", "address"),
    [
        ("00000000:3B:00.0", "0000:3b:00.0"),
        ("00000009:01:00.0", "0009:01:00.0"),
        ("00010000:01:00.0", "10000:01:00.0"),
        ("nonsense", "nonsense"),
    ],
)
def test_pci_address_has_kernel_spelling(bus_id: str, address: str) -> None:
    assert pci_address(bus_id) == address


def test_gpu_missing_in_sysfs_has_no_numa_and_root() -> None:
    world = World(1)
    gpu = world.machine.gpus[0]
    gpu.pci_bus_id = "00000000:FF:00.0"
    host = replace(world.host, sysfs=fake_host(FakeMachine([]), world.clock).sysfs)
    result = discover(host, world.clock)
    assert result.inventory.gpus[0].numa_node is None
    assert any("0000:ff:00.0" in note for note in result.inventory.notes)


def test_gpu_removed_from_bus_is_lost() -> None:
    world = World(3)
    world.scan()
    world.machine.remove(1)
    world.scan()
    assert world.sick() == {"gpu-1": GpuState.LOST}
    assert [gpu.index for gpu in world.inventory.gpus] == [0, 1, 1]


def test_gpu_bound_to_another_driver_leaves_inventory() -> None:
    world = World(3)
    world.scan()
    world.machine.gpus[1].pci_driver = "vfio-pci"
    result = world.scan()
    assert list(world.states()) == ["gpu-0", "gpu-2"]
    assert any("vfio-pci" in note for note in result.inventory.notes)


def test_unreadable_gpu_is_recognised_after_index_shift() -> None:
    world = World(4)
    world.scan()
    world.machine.gpus[0].pci_driver = "vfio-pci"
    world.scan()
    assert world.sick() == {}
    world.machine.lose(3)
    world.scan()
    assert world.sick() == {"gpu-3": GpuState.LOST}


def test_new_gpu_replaces_lost_one_of_same_name() -> None:
    world = World(2)
    world.scan()
    world.machine.gpus[1].uuid = "GPU-ffffffff-0000-4000-8000-000000000000"
    result = world.scan()
    assert [gpu.uuid[:12] for gpu in result.inventory.gpus] == ["GPU-00000000", "GPU-ffffffff"]
    assert any("was replaced" in note for note in result.inventory.notes)


def test_skipped_gpus_are_not_asked_and_unchanged() -> None:
    world = World(3)
    world.scan()
    world.machine.hang(1)
    world.scan()
    world.clock.advance(60.0)
    assert world.scan().hung == (1,)
    world.machine.calls.clear()
    result = world.scan(skip=(1,))
    assert world.sick() == {"gpu-1": GpuState.HUNG} and result.is_complete and result.hung == ()
    assert ("gpu", {"index": 1}) not in world.machine.calls


def test_many_hung_gpus_stop_at_total_limit() -> None:
    world = World(8)
    world.scan()
    for index in range(6):
        world.machine.hang(index)
    start_s = world.clock.monotonic()
    result = world.scan(limits=Limits(gpu_s=2.0, total_s=5.0))
    assert world.clock.monotonic() - start_s <= 5.0
    assert not result.is_complete
    assert len(world.inventory.gpus) == 8
    assert world.states()["gpu-7"] is GpuState.OK


def test_nvml_failure_keeps_known_gpus_as_failed() -> None:
    world = World(2)
    world.scan()
    broken = replace(world.host, nvml=_Broken())
    result = discover(broken, world.clock, before=world.inventory)
    assert not result.is_complete
    assert [gpu.state for gpu in result.inventory.gpus] == [GpuState.FAILED] * 2
    assert result.inventory.driver_version == "580.65.06"


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


def test_unhealthy_gpu_has_current_numbers() -> None:
    """What else is known of it stays: it cannot be read."""
    world = World(2)
    world.scan()
    world.machine.reload_driver()
    world.machine.gpus[0].minor, world.machine.gpus[1].minor = 1, 0
    world.machine.fail(0, 999, "mig_mode")
    world.scan()
    gpu = next(gpu for gpu in world.inventory.gpus if gpu.uuid == world.machine.gpus[0].uuid)
    assert gpu.state is GpuState.FAILED and gpu.product_name
    assert (gpu.minor, gpu.driver_instance) == (1, "580.65.06@2")
    assert gpu.drm == ("card2", "renderD129")


def test_unreadable_device_node_fails_its_gpu_alone() -> None:
    world = World(3)
    world.machine.unreadable_nodes.add("/dev/nvidia1")
    world.scan()
    assert world.sick() == {"gpu-1": GpuState.FAILED}
    assert "Permission denied" in world.inventory.gpus[1].message


@pytest.mark.parametrize(("deaths", "sick"), [(1, 0), (2, 3)])
def test_killed_nvml_process_is_retried_once(deaths: int, sick: int) -> None:
    world = World(3)
    world.scan()
    world.machine.nvml_deaths = deaths
    world.scan()
    assert len(world.sick()) == sick
