"""FakeNvml: the operations of the NVML child on a FakeMachine, with the same JSON and the same errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from nvdra_core.errors import HostError, NvmlError, NvmlHungError, NvmlSlowError
from nvdra_core.runtime.clock import Clock, Deadline
from tests.fakes.host.machine import GPU_IS_LOST, FakeGpu, FakeMachine

READS = frozenset({"gpu", "fabric", "compute_mode"})
"""As ``nvml.READS``."""
NOT_SUPPORTED = 3
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
XID_EVENT = 8
UNKNOWN = 999
WHOLE_GPU = 0xFFFFFFFF
HUNG_S = 45.0
"""After this time a call that has not returned is hung."""

_MESSAGES = {
    2: "Invalid Argument",
    NOT_SUPPORTED: "Not Supported",
    NOT_FOUND: "Not Found",
    DRIVER_NOT_LOADED: "Driver Not Loaded",
    GPU_IS_LOST: "GPU is lost",
    UNKNOWN: "Unknown Error",
}

_FACTS: dict[str, tuple[str, Callable[[FakeGpu], Any]]] = {
    "minor": ("nvmlDeviceGetMinorNumber", lambda gpu: gpu.minor),
    "uuid": ("nvmlDeviceGetUUID", lambda gpu: gpu.uuid),
    "name": ("nvmlDeviceGetName", lambda gpu: gpu.name),
    "pci_bus_id": ("nvmlDeviceGetPciInfo_v3", lambda gpu: gpu.pci_bus_id),
    "mig_mode": (
        "nvmlDeviceGetMigMode",
        lambda gpu: (
            None if gpu.mig_mode is None else {"current": gpu.mig_mode, "pending": gpu.mig_mode}
        ),
    ),
    "memory_bytes": ("nvmlDeviceGetMemoryInfo", lambda gpu: gpu.memory_bytes),
    "architecture": ("nvmlDeviceGetArchitecture", lambda gpu: gpu.architecture),
    "brand": ("nvmlDeviceGetBrand", lambda gpu: gpu.brand),
    "cuda_compute_capability": (
        "nvmlDeviceGetCudaComputeCapability",
        lambda gpu: list(gpu.cuda_compute_capability),
    ),
    "addressing_mode": ("nvmlDeviceGetAddressingMode", lambda gpu: gpu.addressing_mode),
    "module_id": ("nvmlDeviceGetModuleId", lambda gpu: gpu.module_id),
    "persistence": ("nvmlDeviceGetPersistenceMode", lambda gpu: int(gpu.is_persistent)),
    "compute_mode": ("nvmlDeviceGetComputeMode", lambda gpu: gpu.compute_mode),
    "recovery_action": ("nvmlDeviceGetFieldValues", lambda gpu: gpu.recovery_action),
}
"""As ``nvml_ops.FACTS``; None is an answer NOT_SUPPORTED."""


class FakeNvml:
    """See ports.Nvml. A hung GPU lets the whole deadline pass on ``clock``, a cold one as much of it as it needs."""

    def __init__(self, machine: FakeMachine, clock: Clock) -> None:
        self._machine = machine
        self._clock = clock
        self._is_watching = False
        self._begun_s: dict[tuple[str, str], float] = {}
        """When calls were begun that have not returned, by operation and GPU."""
        self._warm: set[str] = set()
        self.hangs = 0
        self._operations: dict[str, Callable[..., Any]] = {
            "system": self._system,
            "gpu": self._gpu,
            "watch_events": self._watch_events,
            "wait_events": self._wait_events,
            "compute_mode": self._compute_mode,
            "set_compute_mode": self._set_compute_mode,
            "fabric": self._fabric,
        }

    def call(self, operation: str, deadline: Deadline, **arguments: Any) -> Any:
        """See ports.Nvml."""
        machine = self._machine
        with machine.lock:
            machine.calls.append((operation, arguments))
            if machine.nvml_deaths:
                machine.nvml_deaths -= 1
                text = f"nvml {operation}: its process ended (exit status -9)"
                raise NvmlError(text, function=operation, code=-1)
            if machine.version is None:
                raise _error(operation, "nvmlInitWithFlags", DRIVER_NOT_LOADED)
            function = self._operations.get(operation)
            if function is None:
                raise HostError(f"nvml {operation}: no operation {operation!r}")
            gpu = next(iter(self._asked(arguments)), None)
        if gpu is not None:
            self._wait(operation, gpu, deadline)
        with machine.lock:
            return function(**arguments)

    def _wait(self, operation: str, gpu: FakeGpu, deadline: Deadline) -> None:
        """Let the time pass that a call on this GPU takes."""
        key = (operation, gpu.uuid)
        is_cold = gpu.cold_s and not gpu.is_persistent and gpu.uuid not in self._warm
        needs_s = HUNG_S if gpu.hung else gpu.cold_s if is_cold else 0.0
        begun_s = self._begun_s.setdefault(key, self._clock.monotonic())
        left_s = begun_s + needs_s - self._clock.monotonic()
        if left_s > 0.0:
            self._clock.wait(threading.Event(), min(left_s, deadline.remaining_s()))
        waited_s = self._clock.monotonic() - begun_s
        shown = f"nvml {operation}({gpu.uuid})"
        if waited_s < needs_s and operation in READS:
            raise NvmlSlowError(f"{shown} has not returned yet and continues", waited_s=waited_s)
        del self._begun_s[key]
        if gpu.hung:
            self.hangs += 1
            raise NvmlHungError(f"{shown} did not return in time", function=operation, code=-1)
        self._warm.add(gpu.uuid)

    def stuck(self) -> int:
        """See ports.Nvml: as many as the machine says."""
        return self._machine.stuck

    def close(self) -> None:
        """See ports.Nvml."""
        self._is_watching = False
        self._warm.clear()
        self._begun_s.clear()

    def _listed(self) -> list[FakeGpu]:
        """What NVML sees: the GPUs that the nvidia driver has."""
        return [g for g in self._machine.gpus if g.pci_driver == "nvidia" and g.is_listed]

    def _asked(self, arguments: dict[str, Any]) -> list[FakeGpu]:
        """The GPU that an operation is about, if there is one."""
        if "index" in arguments:
            return self._listed()[arguments["index"] :][:1]
        return [gpu for gpu in self._listed() if gpu.uuid == arguments.get("uuid")]

    def _system(self) -> dict[str, Any]:
        return {
            "driver_version": self._machine.version,
            "cuda_driver_version": self._machine.cuda_version,
            "count": len(self._listed()),
        }

    def _gpu(self, index: int) -> dict[str, Any]:
        listed = self._listed()
        if not 0 <= index < len(listed):
            raise _error("gpu", "nvmlDeviceGetHandleByIndex", 2)
        gpu = listed[index]
        if "handle" in gpu.failing:
            raise _error("gpu", "nvmlDeviceGetHandleByIndex", gpu.failing["handle"])
        facts: dict[str, Any] = {}
        errors: dict[str, Any] = {}
        for fact, (function, read) in _FACTS.items():
            value = read(gpu)
            code = gpu.failing.get(fact, NOT_SUPPORTED if value is None else 0)
            if code:
                errors[fact] = {
                    "kind": "nvml",
                    "function": function,
                    "code": code,
                    "message": _MESSAGES.get(code, "Unknown Error"),
                }
                if code == GPU_IS_LOST:
                    break
            else:
                facts[fact] = value
        fabric = gpu.fabric and {"state": gpu.fabric.state, "status": gpu.fabric.status}
        return {"index": index, "facts": {**facts, "fabric": fabric}, "errors": errors}

    def _watch_events(self) -> dict[str, Any]:
        self._is_watching = True
        listed = self._listed()
        sick = {gpu.uuid: "GPU is lost" for gpu in listed if "handle" in gpu.failing}
        return {
            "monitored": [gpu.uuid for gpu in listed if gpu.uuid not in sick],
            "unmonitored": sick,
        }

    def _wait_events(self, timeout_ms: int) -> list[dict[str, Any]]:
        """Does not wait: on a fake clock a test could not inject events meanwhile."""
        if not self._is_watching:
            raise HostError("nvml wait_events: wait_events before watch_events")
        xids, self._machine.xids[:] = list(self._machine.xids), []
        return [
            {"uuid": uuid, "type": XID_EVENT, "data": xid, "gi": WHOLE_GPU, "ci": WHOLE_GPU}
            for uuid, xid in xids
        ]

    def _compute_mode(self, uuid: str) -> int:
        return self._by_uuid(uuid).compute_mode

    def _set_compute_mode(self, uuid: str, mode: int) -> None:
        gpu = self._by_uuid(uuid)
        if self._machine.faults.step(f"compute mode {mode} {uuid}") is not None:
            raise _error("set_compute_mode", "nvmlDeviceSetComputeMode", UNKNOWN)
        gpu.compute_mode = mode

    def _fabric(self, index: int) -> dict[str, Any]:
        gpu = self._listed()[index]
        if "handle" in gpu.failing:
            raise _error("fabric", "nvmlDeviceGetHandleByIndex", gpu.failing["handle"])
        if gpu.fabric is None:
            raise _error("fabric", "nvmlDeviceGetGpuFabricInfoV", NOT_SUPPORTED)
        return {"uuid": gpu.uuid, **asdict(gpu.fabric)}

    def _by_uuid(self, uuid: str) -> FakeGpu:
        for gpu in self._listed():
            if gpu.uuid == uuid:
                if "handle" in gpu.failing:
                    code = gpu.failing["handle"]
                    raise _error("compute_mode", "nvmlDeviceGetHandleByUUID", code)
                return gpu
        raise _error("compute_mode", "nvmlDeviceGetHandleByUUID", NOT_FOUND)


def _error(operation: str, function: str, code: int) -> NvmlError:
    message = f"nvml {operation}: {function}: {_MESSAGES.get(code, 'Unknown Error')} ({code})"
    return NvmlError(message, function=function, code=code)
