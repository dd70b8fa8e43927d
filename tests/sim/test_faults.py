"""Faults, lost GPUs and events reach a process that is already running; without them a call costs nothing."""

from __future__ import annotations

import threading
import time

import pynvml
import pytest

from tests.sim.api import SimRoot
from tests.sim.client import Client, session

UUID_OF = "pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex({}))"


def test_a_fault_on_one_gpu_hits_that_gpu_at_once(h100: SimRoot) -> None:
    with Client(h100.nvml_library) as client:
        assert client.ask(UUID_OF.format(3)) == repr(h100.profile.uuids[3])
        slot = h100.fault("nvmlDeviceGetUUID", gpu=3, code=pynvml.NVML_ERROR_UNKNOWN)
        assert client.ask(UUID_OF.format(3)) == "error 999"
        assert client.ask(UUID_OF.format(4)) == repr(h100.profile.uuids[4])
        assert client.ask(
            "pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(3))"
        ).startswith("'NVIDIA")
        assert h100.fault_hits(slot) == 1
        h100.clear_fault(slot)
        assert client.ask(UUID_OF.format(3)) == repr(h100.profile.uuids[3])


def test_a_fault_can_end_after_some_calls(h100: SimRoot) -> None:
    h100.fault("nvmlDeviceGetUUID", code=pynvml.NVML_ERROR_TIMEOUT, times=2)
    with Client(h100.nvml_library) as client:
        answers = [client.ask(UUID_OF.format(0)) for _ in range(3)]
    assert answers == ["error 10", "error 10", repr(h100.profile.uuids[0])]


def test_a_slow_call_takes_its_time(h100: SimRoot) -> None:
    h100.fault("nvmlDeviceGetUUID", gpu=1, delay_ms=120)
    with session(h100.nvml_library) as nvml:
        device = nvml.nvmlDeviceGetHandleByIndex(1)
        start = time.perf_counter()
        nvml.nvmlDeviceGetUUID(device)
        assert time.perf_counter() - start >= 0.12


def test_hanging_call_returns_when_released(h100: SimRoot) -> None:
    with Client(h100.nvml_library) as client:
        slot = h100.fault("nvmlDeviceGetName", hang=True)
        client.send("pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))")
        answers: list[str] = []
        waiter = threading.Thread(target=lambda: answers.append(client.answer()))
        waiter.start()
        waiter.join(0.3)
        assert waiter.is_alive()
        h100.clear_fault(slot)
        waiter.join(5)
        assert answers == [repr(h100.profile.gpus[0].model.name)]


def test_a_fault_for_all_functions_hits_init_too(h100: SimRoot) -> None:
    h100.fault(code=pynvml.NVML_ERROR_UNKNOWN)
    with pytest.raises(pynvml.NVMLError_Unknown), session(h100.nvml_library):
        pass


def test_stubs_can_be_made_to_fail(h100: SimRoot) -> None:
    h100.fault("nvmlDeviceSetDriverModel", code=pynvml.NVML_ERROR_IN_USE)
    with session(h100.nvml_library) as nvml:
        assert nvml.nvmlLib.nvmlDeviceSetDriverModel() == pynvml.NVML_ERROR_IN_USE


def test_a_lost_gpu_leaves_the_others_alone(h100: SimRoot) -> None:
    with Client(h100.nvml_library) as client:
        h100.lose(6)
        assert client.ask(UUID_OF.format(6)) == "error 15"
        assert client.ask("pynvml.nvmlDeviceGetCount()") == "8"
        assert client.ask(UUID_OF.format(7)) == repr(h100.profile.uuids[7])
        h100.find(6)
        assert client.ask(UUID_OF.format(6)) == repr(h100.profile.uuids[6])


REGISTER = "globals().update(s=pynvml.nvmlEventSetCreate()) or [pynvml.nvmlDeviceRegisterEvents(pynvml.nvmlDeviceGetHandleByIndex(i), 8, s) for i in {}]"
WAIT = "(lambda e: (pynvml.nvmlDeviceGetIndex(e.device), e.eventType, e.eventData, e.gpuInstanceId))(pynvml.nvmlEventSetWait_v2(s, {}))"


def test_an_xid_wakes_a_waiter_at_once(h100: SimRoot) -> None:
    with Client(h100.nvml_library) as client:
        h100.xid(2, 13)  # before the registration: never seen
        client.ask(REGISTER.format((2, 3)))
        client.send(WAIT.format(10_000))
        time.sleep(0.1)
        start = time.perf_counter()
        h100.xid(1, 79)  # not registered
        h100.xid(2, 48)
        assert client.answer() == f"(2, 8, 48, {0xFFFFFFFF})"
        assert time.perf_counter() - start < 0.25
        h100.xid(3, 31, gi=7, ci=0)
        assert client.ask(WAIT.format(1000)) == "(3, 8, 31, 7)"
        assert client.ask(WAIT.format(50)) == "error 10"


def test_lost_gpu_wakes_its_event_waiters(h100: SimRoot) -> None:
    with Client(h100.nvml_library) as watching, Client(h100.nvml_library) as other:
        watching.ask(REGISTER.format((0, 1)))
        other.ask(REGISTER.format((2,)))
        watching.send(WAIT.format(10_000))
        h100.lose(1)
        assert watching.answer() == "error 15"
        assert other.ask(WAIT.format(50)) == "error 10"


def test_unsupported_event_types_are_refused(h100: SimRoot) -> None:
    with session(h100.nvml_library) as nvml:
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        assert nvml.nvmlDeviceGetSupportedEventTypes(device) & pynvml.nvmlEventTypeXidCriticalError
        events = nvml.nvmlEventSetCreate()
        with pytest.raises(pynvml.NVMLError_NotSupported):
            nvml.nvmlDeviceRegisterEvents(device, 1 << 40, events)
        nvml.nvmlEventSetFree(events)


def test_settings_last_until_the_next_boot(h100: SimRoot) -> None:
    with session(h100.nvml_library) as nvml:
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        nvml.nvmlDeviceSetComputeMode(device, pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS)
    with session(h100.nvml_library) as nvml:
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        assert nvml.nvmlDeviceGetComputeMode(device) == pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS
        h100.reboot()
        assert nvml.nvmlDeviceGetComputeMode(device) == pynvml.NVML_COMPUTEMODE_DEFAULT
        h100.set_gpu(0, recovery_action=pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET)
        [action] = nvml.nvmlDeviceGetFieldValues(
            device, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION]
        )
        assert action.value.uiVal == pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET
