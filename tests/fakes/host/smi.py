"""nvidia-smi of a FakeMachine: sets time slices, and fails as the real one does when the driver or the GPU does."""

from __future__ import annotations

from collections.abc import Sequence

from nvdra_node.host.ports import CommandResult
from tests.fakes.host.commands import Failure, Hang
from tests.fakes.host.machine import GPU_IS_LOST, FakeGpu, FakeMachine

_SET = ("nvidia-smi", "compute-policy", "-i")
_NO_DRIVER = Failure(
    9,
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA"
    " driver is installed and running.",
)
_UNSUPPORTED = Failure(3, "Failed to set timeslice for requested devices : Not Supported")
_LOST = "Unable to determine the device handle for GPU: GPU is lost. Reboot the system to recover this GPU"


class FakeSmi:
    """A program for ``FakeCommands``."""

    def __init__(self, machine: FakeMachine) -> None:
        self._machine = machine

    def __call__(self, argv: Sequence[str]) -> CommandResult | Failure | Hang:
        """``nvidia-smi compute-policy -i <uuid> --set-timeslice <n>``, the one use that there is."""
        *head, uuid, option, value = argv
        if tuple(head) != _SET or option != "--set-timeslice" or value not in ("0", "1", "2", "3"):
            return Failure(2, f"Invalid combination of input arguments: {' '.join(argv)}")
        with self._machine.lock:
            return self._set(uuid, int(value))

    def _set(self, uuid: str, time_slice: int) -> CommandResult | Failure | Hang:
        machine = self._machine
        if machine.version is None:
            return _NO_DRIVER
        gpu = next((g for g in machine.gpus if g.uuid == uuid and g.pci_driver == "nvidia"), None)
        if gpu is None:
            return Failure(6, "No devices were found")
        if gpu.hung:
            return Hang()
        if (failure := _failure(gpu)) is not None:
            return failure
        if machine.faults.step(f"time slice {time_slice} {uuid}") is not None:
            return Failure(999, "Unknown Error")
        gpu.time_slice = time_slice
        return CommandResult(stdout=f"Successfully set timeslice for GPU {uuid}", stderr="")


def _failure(gpu: FakeGpu) -> Failure | None:
    if "handle" in gpu.failing:
        code = gpu.failing["handle"]
        return Failure(code, _LOST if code == GPU_IS_LOST else "Unknown Error")
    return None if gpu.has_time_slices else _UNSUPPORTED
