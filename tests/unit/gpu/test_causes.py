"""GPUs that are not offered, or run no CUDA program although NVML can read them: each with its cause."""

from __future__ import annotations

import re
from typing import Any

import pytest
from msgspec.structs import replace

from nvdra_core.errors import NvmlError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.gpu.discover import Limits
from nvdra_node.gpu.model import GpuState
from nvdra_node.host.ports import NodeStat
from tests.fakes.host.machine import FakeFabric
from tests.unit.gpu.test_discover import World


def test_gpu_that_nvml_never_lists_is_noted_with_its_address() -> None:
    world = World(8)
    world.machine.gpus[3].is_listed = False
    look = world.look()
    assert len(look.inventory.devices) == 7
    (note,) = look.inventory.notes
    assert world.machine.gpus[3].address in note and "NVML does not list" in note


@pytest.mark.parametrize(
    ("driver", "is_excluded", "said"),
    [
        ("nvidia", True, "excluded by NVreg_ExcludedGpus"),
        ("nouveau", False, "bound to nouveau"),
        (None, False, "no kernel driver is bound"),
        ("vfio-pci", False, ""),
    ],
)
def test_gpu_that_is_not_nvidias_to_use_is_noted_as_such(
    driver: str | None, is_excluded: bool, said: str
) -> None:
    world = World(2)
    gpu = world.machine.gpus[1]
    gpu.pci_driver, gpu.is_excluded, gpu.is_listed = driver, is_excluded, False
    notes = world.look().inventory.notes
    assert len(notes) == bool(said) and all(said in note for note in notes)


@pytest.mark.parametrize(("action", "is_offered"), [(0, True), (3, True), (5, True), (1, False), (2, False), (4, False)])  # fmt: skip
def test_gpu_that_asks_for_a_reset_is_not_healthy(action: int, is_offered: bool) -> None:
    world = World(2)
    world.machine.gpus[1].recovery_action = action
    notes = world.look().inventory.notes
    assert (world.sick() == {}) is is_offered
    assert is_offered or f"recovery action {action}" in world.inventory.devices[1].message
    assert len(notes) == (action in (3, 5))


@pytest.mark.parametrize(
    ("fabric", "said"),
    [
        (FakeFabric(), ""),
        (FakeFabric(state=1), ""),
        (FakeFabric(state=2), "fabric is in progress.*802.*nvidia-fabricmanager"),
        (FakeFabric(status=999), r"fabric failed \(NVML status 999\)"),
    ],
)
def test_gpu_without_its_fabric_is_not_healthy(fabric: FakeFabric, said: str) -> None:
    world = World(2)
    world.machine.gpus[1].fabric = fabric
    world.look()
    assert world.sick() == ({"gpu-1": GpuState.FAILED} if said else {})
    assert re.search(said, world.inventory.devices[1].message)
    world.look(limits=Limits(fabric=False))
    assert world.sick() == {}


def test_why_there_is_no_driver_is_a_note() -> None:
    world = World(2)
    world.machine.unload_driver()
    world.machine.is_wsl = True
    (note,) = world.look().inventory.notes
    assert "WSL2" in note


@pytest.mark.parametrize(("mode", "is_offered"), [(0, True), (2, False), (3, True)])
def test_gpu_whose_compute_mode_is_prohibited_is_not_healthy(mode: int, is_offered: bool) -> None:
    world = World(2)
    world.machine.gpus[1].compute_mode = mode
    world.look()
    assert (world.sick() == {}) is is_offered
    assert is_offered or "--compute-mode=DEFAULT" in world.inventory.devices[1].message


@pytest.mark.parametrize(
    ("stat", "said"),
    [
        (
            NodeStat(major=1, minor=3, mode=0o666, gid=0),
            "/dev/nvidia1 is device 1:3, expected 195:1",
        ),
        (None, "/dev/nvidia1 does not exist: run nvidia-modprobe -c 1"),
    ],
)
def test_gpu_without_its_device_node_is_not_healthy(stat: NodeStat | None, said: str) -> None:
    world = World(2)
    before = world.look().inventory
    world.machine.nodes["/dev/nvidia1"] = stat
    world.look()
    assert world.sick() == {"gpu-1": GpuState.FAILED}
    assert said in world.inventory.devices[1].message
    del world.machine.nodes["/dev/nvidia1"]
    assert world.look().inventory == before


@pytest.mark.parametrize(
    ("code", "said"), [(18, "reload the driver"), (9, "nvidia-modprobe -c 0 -u"), (999, "")]
)
def test_nvml_that_fails_as_a_whole_says_what_to_do(code: int, said: str) -> None:
    class Failing:
        hangs = 0

        def call(self, operation: str, deadline: Deadline, **arguments: Any) -> Any:
            raise NvmlError("nvml system failed", function="nvmlInit", code=code)

        def stuck(self) -> int:
            return 0

        def close(self) -> None:
            """Nothing to end."""

    world = World(1)
    world.host = replace(world.host, nvml=Failing())
    (note,) = world.look().inventory.notes
    assert note.startswith("nvml system failed") and said in note
