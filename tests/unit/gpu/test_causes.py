"""GPUs that are not published, or run no CUDA programs although NVML can read them: each with its cause."""

from __future__ import annotations

import re
from typing import Any

import pytest
from msgspec.structs import replace

from nvdra_core.errors import NvmlError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.gpu.inventory.scan import Limits
from nvdra_node.gpu.model import GpuState
from nvdra_node.host.ports import NodeStat
from tests.fakes.host.machine import FakeFabric
from tests.unit.gpu.test_discover import World


def test_gpu_never_listed_by_nvml_is_noted_with_address() -> None:
    world = World(8)
    world.machine.gpus[3].is_listed = False
    result = world.scan()
    assert len(result.inventory.gpus) == 7
    (note,) = result.inventory.notes
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
def test_gpu_of_other_or_no_driver_is_noted(
    driver: str | None, is_excluded: bool, said: str
) -> None:
    world = World(2)
    gpu = world.machine.gpus[1]
    gpu.pci_driver, gpu.is_excluded, gpu.is_listed = driver, is_excluded, False
    notes = world.scan().inventory.notes
    assert len(notes) == bool(said) and all(said in note for note in notes)


@pytest.mark.parametrize(("action", "is_offered"), [(0, True), (3, True), (5, True), (1, False), (2, False), (4, False)])  # fmt: skip
def test_gpu_needing_recovery_is_failed(action: int, is_offered: bool) -> None:
    world = World(2)
    world.machine.gpus[1].recovery_action = action
    notes = world.scan().inventory.notes
    assert (world.sick() == {}) is is_offered
    assert is_offered or f"recovery action {action}" in world.inventory.gpus[1].message
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
def test_gpu_without_fabric_registration_is_failed(fabric: FakeFabric, said: str) -> None:
    world = World(2)
    world.machine.gpus[1].fabric = fabric
    world.scan()
    assert world.sick() == ({"gpu-1": GpuState.FAILED} if said else {})
    assert re.search(said, world.inventory.gpus[1].message)
    world.scan(limits=Limits(fabric=False))
    assert world.sick() == {}


def test_missing_driver_is_explained_in_note() -> None:
    world = World(2)
    world.machine.unload_driver()
    world.machine.is_wsl = True
    (note,) = world.scan().inventory.notes
    assert "WSL2" in note


@pytest.mark.parametrize(("mode", "is_offered"), [(0, True), (2, False), (3, True)])
def test_gpu_in_prohibited_compute_mode_is_failed(mode: int, is_offered: bool) -> None:
    world = World(2)
    world.machine.gpus[1].compute_mode = mode
    world.scan()
    assert (world.sick() == {}) is is_offered
    assert is_offered or "--compute-mode=DEFAULT" in world.inventory.gpus[1].message


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
def test_gpu_without_valid_device_node_is_failed(stat: NodeStat | None, said: str) -> None:
    world = World(2)
    before = world.scan().inventory
    world.machine.nodes["/dev/nvidia1"] = stat
    world.scan()
    assert world.sick() == {"gpu-1": GpuState.FAILED}
    assert said in world.inventory.gpus[1].message
    del world.machine.nodes["/dev/nvidia1"]
    assert world.scan().inventory == before


@pytest.mark.parametrize(
    ("code", "said"), [(18, "reload the driver"), (9, "nvidia-modprobe -c 0 -u"), (999, "")]
)
def test_nvml_failure_note_names_remedy(code: int, said: str) -> None:
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
    (note,) = world.scan().inventory.notes
    assert note.startswith("nvml system failed") and said in note
