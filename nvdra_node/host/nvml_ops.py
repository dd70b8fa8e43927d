"""The operations of the NVML child, JSON in and out. Runs in the child only; the only user of pynvml.

``system``           -> {driver_version, cuda_driver_version, count}
``gpu(index)``       -> {index, facts, errors}: every fact read on its own, see ``FACTS``, and ``recovery_action`` and
                       ``fabric`` ({state, status}; None: no NVLink fabric); what failed is in ``errors``
``watch_events``     -> {monitored: [uuid], unmonitored: {uuid: why}}; opens the event set, again on each call
``wait_events(timeout_ms)`` -> [{uuid, type, data, gi, ci}], without waiting when events are there
``compute_mode(uuid)``, ``set_compute_mode(uuid, mode)``
``fabric(index)``     -> {uuid, state, status, cluster_uuid, clique_id, health, recovery_action}: its NVLink fabric

An operation raises OperationError; its ``fault`` is sent to the parent.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pynvml

INIT_WITHOUT_GPUS = 1
"""NVML_INIT_FLAG_NO_GPUS: do not fail on a node without GPUs."""
GPU_IS_LOST = 15
_NO_SUCH_VERSION = frozenset({13, 25})
"""FUNCTION_NOT_FOUND and ARGUMENT_VERSION_MISMATCH: the driver supports an earlier version only."""
_NO_FABRIC = frozenset({3, 13})
"""NOT_SUPPORTED and FUNCTION_NOT_FOUND."""
MAX_EVENTS = 64
"""Events per call; the rest is returned by the next one."""

Fault = dict[str, Any]


class OperationError(Exception):
    """A failed operation, as sent to the parent: ``{kind: nvml|library|request, function, code, message}``."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault["message"])
        self.fault = fault


def _identity(value: Any) -> Any:
    return value


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


Fact = tuple[str, str, Callable[[Any], Any]]

FACTS: tuple[Fact, ...] = (
    ("minor", "nvmlDeviceGetMinorNumber", _identity),
    ("uuid", "nvmlDeviceGetUUID", _text),
    ("name", "nvmlDeviceGetName", _text),
    ("pci_bus_id", "nvmlDeviceGetPciInfo_v3", lambda pci: _text(pci.busId)),
    ("mig_mode", "nvmlDeviceGetMigMode", lambda modes: {"current": modes[0], "pending": modes[1]}),
    ("memory_bytes", "nvmlDeviceGetMemoryInfo", lambda memory: memory.total),
    ("architecture", "nvmlDeviceGetArchitecture", _identity),
    ("brand", "nvmlDeviceGetBrand", _identity),
    ("cuda_compute_capability", "nvmlDeviceGetCudaComputeCapability", list),
    ("addressing_mode", "nvmlDeviceGetAddressingMode", _identity),
    ("module_id", "nvmlDeviceGetModuleId", _identity),
    ("persistence", "nvmlDeviceGetPersistenceMode", _identity),
    ("compute_mode", "nvmlDeviceGetComputeMode", _identity),
)
"""Fact -> NVML function and the part of its result that is sent. Enumerators stay numbers; the parent names them."""


def _nvml(function: str, *arguments: Any) -> Any:
    """Call one NVML function. Raises OperationError with its name and code."""
    try:
        return getattr(pynvml, function)(*arguments)
    except pynvml.NVMLError as error:
        fault = {"kind": "nvml", "function": function, "code": error.value, "message": str(error)}
        raise OperationError(fault) from error


def _read(handle: Any, fact: Fact, into: dict[str, Any]) -> Fault | None:
    name, function, convert = fact
    try:
        into[name] = convert(_nvml(function, handle))
    except OperationError as error:
        return error.fault
    return None


def _recovery_action(handle: Any) -> int:
    """NVML_GPU_RECOVERY_ACTION_*; 0 with drivers that do not have the field."""
    try:
        [found] = _nvml(
            "nvmlDeviceGetFieldValues", handle, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION]
        )
    except OperationError as error:
        if error.fault["code"] == GPU_IS_LOST:
            raise
        return 0
    return 0 if found.nvmlReturn else int(found.value.uiVal)


def _fabric_info(handle: Any) -> Any:
    """The fabric's state in the newest version that the driver supports."""
    info = pynvml.c_nvmlGpuFabricInfo_v3_t()
    try:
        _nvml("nvmlDeviceGetGpuFabricInfoV", handle, ctypes.byref(info))
    except OperationError as error:
        if error.fault["code"] not in _NO_SUCH_VERSION:
            raise
        info = pynvml.c_nvmlGpuFabricInfo_t()
        _nvml("nvmlDeviceGetGpuFabricInfo", handle, ctypes.byref(info))
    return info


def _read_usability(handle: Any, facts: dict[str, Any], errors: dict[str, Fault]) -> None:
    """Fabric state that keeps CUDA from using a GPU that otherwise answers."""
    try:
        facts["recovery_action"] = _recovery_action(handle)
    except OperationError as error:
        errors["recovery_action"] = error.fault
    facts["fabric"] = None
    try:
        info = _fabric_info(handle)
        facts["fabric"] = {"state": info.state, "status": info.status}
    except OperationError as error:
        if error.fault["code"] not in _NO_FABRIC:
            errors["fabric"] = error.fault


class Session:
    """One NVML session: the library loaded from a given path, initialised at the first operation."""

    def __init__(self, library: str) -> None:
        self._library = library
        self._open = False
        self._events: Any = None
        self._operations: dict[str, Callable[..., Any]] = {
            "system": self.system,
            "gpu": self.gpu,
            "watch_events": self.watch_events,
            "wait_events": self.wait_events,
            "compute_mode": self.compute_mode,
            "set_compute_mode": self.set_compute_mode,
            "fabric": self.fabric,
        }

    @property
    def is_watching(self) -> bool:
        """Whether events are being collected: the process must not exit idle."""
        return self._events is not None

    def call(self, operation: str, arguments: dict[str, Any]) -> Any:
        """Run an operation by its name."""
        function = self._operations.get(operation)
        if function is None:
            raise OperationError({"kind": "request", "message": f"no operation {operation!r}"})
        self._ensure_open()
        return function(**arguments)

    def system(self) -> dict[str, Any]:
        """Versions and the number of GPUs."""
        return {
            "driver_version": _text(_nvml("nvmlSystemGetDriverVersion")),
            "cuda_driver_version": _nvml("nvmlSystemGetCudaDriverVersion_v2"),
            "count": _nvml("nvmlDeviceGetCount"),
        }

    def gpu(self, index: int) -> dict[str, Any]:
        """All facts of one GPU. Stops at a lost GPU, whose further calls could take long."""
        handle = _nvml("nvmlDeviceGetHandleByIndex", index)
        facts: dict[str, Any] = {}
        errors: dict[str, Fault] = {}
        for fact in FACTS:
            fault = _read(handle, fact, facts)
            if fault is not None:
                errors[fact[0]] = fault
                if fault["code"] == GPU_IS_LOST:
                    return {"index": index, "facts": facts, "errors": errors}
        _read_usability(handle, facts, errors)
        return {"index": index, "facts": facts, "errors": errors}

    def watch_events(self) -> dict[str, Any]:
        """Register all GPUs for the critical XID and ECC events that each supports."""
        if self._events is not None:
            _nvml("nvmlEventSetFree", self._events)
            self._events = None
        events = _nvml("nvmlEventSetCreate")
        wanted = (
            pynvml.nvmlEventTypeXidCriticalError
            | pynvml.nvmlEventTypeDoubleBitEccError
            | pynvml.nvmlEventTypeSingleBitEccError
        )
        monitored: list[str] = []
        unmonitored: dict[str, str] = {}
        for index in range(_nvml("nvmlDeviceGetCount")):
            key = f"index {index}"
            try:
                handle = _nvml("nvmlDeviceGetHandleByIndex", index)
                key = _text(_nvml("nvmlDeviceGetUUID", handle))
                supported = _nvml("nvmlDeviceGetSupportedEventTypes", handle)
                _nvml("nvmlDeviceRegisterEvents", handle, wanted & supported, events)
                monitored.append(key)
            except OperationError as error:
                unmonitored[key] = str(error)
        self._events = events
        return {"monitored": monitored, "unmonitored": unmonitored}

    def wait_events(self, timeout_ms: int) -> list[dict[str, Any]]:
        """Events so far; waits at most ``timeout_ms`` for the first one."""
        if self._events is None:
            raise OperationError({"kind": "request", "message": "wait_events before watch_events"})
        events: list[dict[str, Any]] = []
        while len(events) < MAX_EVENTS:
            try:
                data = _nvml("nvmlEventSetWait_v2", self._events, 0 if events else timeout_ms)
            except OperationError as error:
                if error.fault["code"] == pynvml.NVML_ERROR_TIMEOUT or events:
                    break
                raise
            events.append(
                {
                    "uuid": _text(_nvml("nvmlDeviceGetUUID", data.device)),
                    "type": data.eventType,
                    "data": data.eventData,
                    "gi": data.gpuInstanceId,
                    "ci": data.computeInstanceId,
                }
            )
        return events

    def compute_mode(self, uuid: str) -> int:
        """NVML_COMPUTEMODE_* of a GPU."""
        return int(_nvml("nvmlDeviceGetComputeMode", self._handle(uuid)))

    def set_compute_mode(self, uuid: str, mode: int) -> None:
        """Set NVML_COMPUTEMODE_* of a GPU; needs root."""
        _nvml("nvmlDeviceSetComputeMode", self._handle(uuid), mode)

    def fabric(self, index: int) -> dict[str, Any]:
        """NVML_GPU_FABRIC_STATE_*, nvmlReturn_t of the registration, cluster UUID (text), clique id,
        NVML_GPU_FABRIC_HEALTH_SUMMARY_* and NVML_GPU_RECOVERY_ACTION_* (both 0 if the driver does not have them)."""
        handle = _nvml("nvmlDeviceGetHandleByIndex", index)
        info = _fabric_info(handle)
        digits = bytes(info.clusterUuid).hex()
        parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
        return {
            "uuid": _text(_nvml("nvmlDeviceGetUUID", handle)),
            "state": info.state,
            "status": info.status,
            "cluster_uuid": "-".join(parts),
            "clique_id": info.cliqueId,
            "health": getattr(info, "healthSummary", 0),
            "recovery_action": _recovery_action(handle),
        }

    def _handle(self, uuid: str) -> Any:
        return _nvml("nvmlDeviceGetHandleByUUID", uuid)

    def _ensure_open(self) -> None:
        if self._open:
            return
        if pynvml.nvmlLib is None:
            try:
                # pynvml loads the library by its bare name unless one is loaded already.
                pynvml.nvmlLib = ctypes.CDLL(self._library)
            except OSError as error:
                raise OperationError({"kind": "library", "message": str(error)}) from error
        _nvml("nvmlInitWithFlags", INIT_WITHOUT_GPUS)
        self._open = True
