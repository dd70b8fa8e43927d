"""MIG through pynvml: modes, profiles, placements, lifetime across processes, what a container sees."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests.sim.api import SimRoot
from tests.sim.client import Client, session

ONE, THREE, FOUR, SEVEN = 0, 2, 3, 4  # NVML's profile numbers


def placements(nvml: Any, device: Any, profile_id: int) -> list[tuple[int, int]]:
    """All places of a profile, asked in the C way: first how many, then which."""
    count = ctypes.c_uint(0)
    nvml.nvmlDeviceGetGpuInstancePossiblePlacements(device, profile_id, None, ctypes.byref(count))
    found = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
    nvml.nvmlDeviceGetGpuInstancePossiblePlacements(device, profile_id, found, ctypes.byref(count))
    return [(place.start, place.size) for place in found]


def enabled(nvml: Any, index: int = 0) -> Any:
    device = nvml.nvmlDeviceGetHandleByIndex(index)
    nvml.nvmlDeviceSetMigMode(device, 1)
    return device


def create(nvml: Any, device: Any, profile: int, start: int | None = None) -> Any:
    info = nvml.nvmlDeviceGetGpuInstanceProfileInfo(device, profile)
    if start is None:
        return nvml.nvmlDeviceCreateGpuInstance(device, info.id)
    size = placements(nvml, device, info.id)[0][1]
    placement = pynvml.c_nvmlGpuInstancePlacement_t(start=start, size=size)
    # nvidia-ml-py hands the placement on as it is, and C wants its address
    return nvml.nvmlDeviceCreateGpuInstanceWithPlacement(device, info.id, ctypes.byref(placement))


def compute(nvml: Any, gi: Any, profile: int) -> Any:
    info = nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, profile, 0)
    return nvml.nvmlGpuInstanceCreateComputeInstance(gi, info.id)


class ThirdProfileInfo(ctypes.Structure):
    """Version 3 of the profile information, which nvidia-ml-py does not declare: capabilities, at the end."""

    _fields_ = [
        *(
            (name, ctypes.c_uint)
            for name in ["version", "id", "sliceCount", "instanceCount", "multiprocessorCount"]
        ),
        *(
            (f"{name}Count", ctypes.c_uint)
            for name in ["copyEngine", "decoder", "encoder", "jpeg", "ofa"]
        ),
        ("memorySizeMB", ctypes.c_ulonglong),
        ("name", ctypes.c_char * 96),
        ("capabilities", ctypes.c_uint),
    ]


def third_version(nvml: Any, device: Any, number: int) -> ThirdProfileInfo:
    info = ThirdProfileInfo(version=ctypes.sizeof(ThirdProfileInfo) | 3 << 24)
    assert (
        nvml.nvmlLib.nvmlDeviceGetGpuInstanceProfileInfoV(device, number, ctypes.byref(info)) == 0
    )
    return info


def numbers(info: Any) -> tuple[int, ...]:
    counts = (info.sliceCount, info.instanceCount, info.multiprocessorCount, info.copyEngineCount)
    engines = (info.decoderCount, info.encoderCount, info.jpegCount, info.ofaCount)
    return (info.id, *counts, *engines, info.memorySizeMB)


def test_profiles_are_reported_in_all_struct_versions(h100: SimRoot) -> None:
    with session(h100.nvml_library) as nvml:
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        for p in h100.profile.gpus[0].model.mig_profiles:
            first = nvml.nvmlDeviceGetGpuInstanceProfileInfo(device, p.number, version=1)
            second = nvml.nvmlDeviceGetGpuInstanceProfileInfo(device, p.number, version=2)
            third = third_version(nvml, device, p.number)
            want = (
                p.id,
                p.slices,
                p.count,
                p.sms,
                p.copy,
                p.dec,
                p.enc,
                p.jpeg,
                p.ofa,
                p.memory_mb,
            )
            assert [numbers(info) for info in (first, second, third)] == [want] * 3
            assert second.name == third.name.decode() == f"MIG {p.name}"
            assert placements(nvml, device, p.id) == [(start, p.size) for start in p.starts]


def test_profiles_that_a_model_lacks_are_not_supported(h100: SimRoot) -> None:
    offered = {p.number for p in h100.profile.gpus[0].model.mig_profiles}
    with session(h100.nvml_library) as nvml:
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        for number in set(range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT)) - offered:
            with pytest.raises(pynvml.NVMLError_NotSupported):
                nvml.nvmlDeviceGetGpuInstanceProfileInfo(device, number)


def test_profile_numbers_out_of_range_are_invalid(h100: SimRoot) -> None:
    with session(h100.nvml_library) as nvml, pytest.raises(pynvml.NVMLError_InvalidArgument):
        nvml.nvmlDeviceGetGpuInstanceProfileInfo(nvml.nvmlDeviceGetHandleByIndex(0), 18)


def test_instances_need_mig_mode(h100: SimRoot) -> None:
    with session(h100.nvml_library) as nvml, pytest.raises(pynvml.NVMLError_NotSupported):
        create(nvml, nvml.nvmlDeviceGetHandleByIndex(0), ONE)


def test_mig_mode_changes_at_once_on_hopper_at_boot_on_ampere(tmp_path: Path) -> None:
    for name, after, rebooted in (("h100x8", [1, 1], [0, 0]), ("a100x8", [0, 1], [1, 1])):
        root = SimRoot.create(tmp_path / name, name)
        with session(root.nvml_library) as nvml:
            device = enabled(nvml)
            assert nvml.nvmlDeviceGetMigMode(device) == after
        root.reboot()
        with session(root.nvml_library) as nvml:
            assert nvml.nvmlDeviceGetMigMode(nvml.nvmlDeviceGetHandleByIndex(0)) == rebooted


def test_a_taken_placement_is_refused(h100: SimRoot) -> None:
    with session(h100.nvml_library) as nvml:
        device = enabled(nvml)
        create(nvml, device, THREE, 4)
        for profile, start in ((THREE, 4), (ONE, 4), (ONE, 6), (SEVEN, 0)):
            with pytest.raises(pynvml.NVMLError_InsufficientResources):
                create(nvml, device, profile, start)
        create(nvml, device, FOUR, 0)


def test_an_impossible_placement_is_invalid(h100: SimRoot) -> None:
    with session(h100.nvml_library) as nvml:
        device = enabled(nvml)
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            create(nvml, device, THREE, 2)


def test_compute_slices_run_out_before_memory_does(h100: SimRoot) -> None:
    """Seven one-slice instances fit, an eighth does not, though memory has eight slices."""
    with session(h100.nvml_library) as nvml:
        device = enabled(nvml)
        info = nvml.nvmlDeviceGetGpuInstanceProfileInfo(device, ONE)
        for made in range(7):
            assert nvml.nvmlDeviceGetGpuInstanceRemainingCapacity(device, info.id) == 7 - made
            create(nvml, device, ONE)
        with pytest.raises(pynvml.NVMLError_InsufficientResources):
            create(nvml, device, ONE)


def test_an_instance_with_compute_instances_cannot_be_destroyed(h100: SimRoot) -> None:
    with session(h100.nvml_library) as nvml:
        device = enabled(nvml)
        gi = create(nvml, device, THREE)
        ci = compute(nvml, gi, ONE)
        with pytest.raises(pynvml.NVMLError_InUse):
            nvml.nvmlGpuInstanceDestroy(gi)
        with pytest.raises(pynvml.NVMLError_InUse):
            nvml.nvmlDeviceSetMigMode(device, 0)
        nvml.nvmlComputeInstanceDestroy(ci)
        nvml.nvmlGpuInstanceDestroy(gi)
        with pytest.raises(pynvml.NVMLError_NotFound):
            nvml.nvmlGpuInstanceGetInfo(gi)
        nvml.nvmlDeviceSetMigMode(device, 0)


def test_seven_slices_offer_no_nvl_compute_profile(h100: SimRoot) -> None:
    """The number of the 7-slice NVL profile is not offered on ordinary GPUs."""
    with session(h100.nvml_library) as nvml:
        gi = create(nvml, enabled(nvml), SEVEN)
        with pytest.raises(pynvml.NVMLError_NotSupported):
            nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(
                gi, pynvml.NVML_COMPUTE_INSTANCE_PROFILE_7_SLICE_NVL, 0
            )
        compute(nvml, gi, SEVEN)


def test_mig_device_reports_parent_and_instance(h100: SimRoot) -> None:
    gpu = h100.profile.gpus[2]
    with session(h100.nvml_library) as nvml:
        device = enabled(nvml, 2)
        gi = create(nvml, device, THREE, 4)
        compute(nvml, gi, THREE)
        mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, 0)
        assert nvml.nvmlDeviceIsMigDeviceHandle(mig) and not nvml.nvmlDeviceIsMigDeviceHandle(
            device
        )
        parent = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig)
        assert nvml.nvmlDeviceGetUUID(parent) == gpu.uuid
        assert nvml.nvmlDeviceGetName(mig) == f"{gpu.model.name} MIG 3g.40gb"
        assert nvml.nvmlDeviceGetMemoryInfo(mig).total == 40448 << 20
        assert nvml.nvmlDeviceGetAttributes(mig).multiprocessorCount == 60
        uuid = nvml.nvmlDeviceGetUUID(mig)
        assert uuid.startswith("MIG-")
        assert nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByUUID(uuid)) == uuid
        info = nvml.nvmlGpuInstanceGetInfo(gi)
        assert (info.placement.start, info.placement.size, info.profileId) == (4, 4, 9)
        assert nvml.nvmlDeviceGetGpuInstanceId(mig) == info.id
        with pytest.raises(pynvml.NVMLError_NotFound):
            nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, 1)


def test_mig_devices_outlive_the_process_that_made_them(h100: SimRoot) -> None:
    with session(h100.nvml_library) as nvml:
        compute(nvml, create(nvml, enabled(nvml, 1), ONE, 5), ONE)
    ask = "pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(pynvml.nvmlDeviceGetHandleByIndex(1), 0))"
    with Client(h100.nvml_library) as client:
        assert client.ask(ask).startswith("'MIG-")
        assert [(i.gpu, i.start, i.cis) for i in h100.mig_instances()] == [(1, 5, (0,))]
        h100.reboot()
        assert client.ask(ask) == "error 6"
    assert h100.mig_instances() == []


def test_two_processes_cannot_take_one_placement(h100: SimRoot) -> None:
    """Eight clients ask for seven places: each place is given once."""
    with session(h100.nvml_library) as nvml:
        enabled(nvml)
    ask = "bool(pynvml.nvmlDeviceCreateGpuInstance(pynvml.nvmlDeviceGetHandleByIndex(0), 19))"
    clients = [Client(h100.nvml_library) for _ in range(4)]
    try:
        for _ in range(2):
            for client in clients:
                client.send(ask)
        answers = [client.answer() for client in clients for _ in range(2)]
    finally:
        for client in clients:
            client.__exit__(None, None, None)
    assert sorted(answers) == ["True"] * 7 + ["error 23"]
    assert {i.start for i in h100.mig_instances()} == set(range(7))


def test_capability_files_follow_the_instances(h100: SimRoot) -> None:
    capabilities = h100.proc / "driver/nvidia/capabilities/gpu0/mig"
    minors = dict(
        line.rsplit(" ", 1)
        for line in (h100.proc / "driver/nvidia-caps/mig-minors").read_text().splitlines()
    )
    with session(h100.nvml_library) as nvml:
        gi = create(nvml, enabled(nvml), THREE, 4)
        ci = compute(nvml, gi, THREE)
        gi_id = nvml.nvmlGpuInstanceGetInfo(gi).id
        for name in (f"gi{gi_id}/access", f"gi{gi_id}/ci0/access"):
            minor = minors[f"gpu0/{name}"]
            assert f"DeviceFileMinor: {minor}\n" in (capabilities / name).read_text()
            assert (h100.path / f"dev/nvidia-caps/nvidia-cap{minor}").exists()
        nvml.nvmlComputeInstanceDestroy(ci)
        nvml.nvmlGpuInstanceDestroy(gi)
    assert list(capabilities.iterdir()) == []


def test_container_sees_mig_devices_of_its_capabilities(h100: SimRoot, tmp_path: Path) -> None:
    with session(h100.nvml_library) as nvml:
        device = enabled(nvml)
        for start in (0, 1):
            compute(nvml, create(nvml, device, ONE, start), ONE)
        wanted = nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, 1))
    container = tmp_path / "container"
    inside = container / "usr/lib/libnvidia-ml.so.1"
    inside.parent.mkdir(parents=True)
    inside.hardlink_to(h100.nvml_library.resolve())
    (container / "dev/nvidia-caps").mkdir(parents=True)
    gi_minor = 3 + 9 * 8  # gpu0/gi8: one slice at 1
    for node in (
        "nvidiactl",
        "nvidia0",
        f"nvidia-caps/nvidia-cap{gi_minor}",
        f"nvidia-caps/nvidia-cap{gi_minor + 1}",
    ):
        (container / "dev" / node).touch()
    # a process of its own: the loader knows the file by its inode and would not load it twice
    with Client(inside) as client:
        ask = "pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(pynvml.nvmlDeviceGetHandleByIndex(0), {}))"
        assert client.ask(ask.format(0)) == repr(wanted)
        assert client.ask(ask.format(1)) == "error 6"


def test_gpu_without_mig_reports_not_supported(tmp_path: Path) -> None:
    root = SimRoot.create(tmp_path / "host", "l4x2")
    with session(root.nvml_library) as nvml:
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        assert nvml.nvmlDeviceGetMaxMigDeviceCount(device) == 0
        for call in (nvml.nvmlDeviceGetMigMode, lambda d: nvml.nvmlDeviceSetMigMode(d, 1)):
            with pytest.raises(pynvml.NVMLError_NotSupported):
                call(device)
