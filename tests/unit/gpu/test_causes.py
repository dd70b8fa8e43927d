"""GPUs that are not offered, or run no CUDA program although NVML can read them: each with its cause."""

from __future__ import annotations

import re

import pytest

from nvdra_node.gpu.discover import Limits
from nvdra_node.gpu.model import GpuState
from nvdra_node.host.fake.machine import FakeFabric
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
