"""What pynvml reads is what the profile says, for every profile that comes with the simulator."""

from __future__ import annotations

import time
from pathlib import Path

import pynvml
import pytest

from tests.sim import profile
from tests.sim.api import SimRoot
from tests.sim.client import session


@pytest.mark.parametrize("name", profile.names())
def test_identity_of_every_gpu(tmp_path: Path, name: str) -> None:
    root = SimRoot.create(tmp_path / "host", name)
    with session(root.nvml_library) as nvml:
        assert nvml.nvmlSystemGetDriverVersion() == root.profile.driver_version
        assert nvml.nvmlSystemGetCudaDriverVersion_v2() == root.profile.cuda_version
        assert nvml.nvmlDeviceGetCount() == len(root.profile.gpus)
        for gpu in root.profile.gpus:
            device = nvml.nvmlDeviceGetHandleByIndex(gpu.index)
            assert nvml.nvmlDeviceGetUUID(device) == gpu.uuid
            assert nvml.nvmlDeviceGetMinorNumber(device) == gpu.minor
            assert nvml.nvmlDeviceGetName(device) == gpu.model.name
            assert nvml.nvmlDeviceGetPciInfo(device).busId == gpu.nvml_bus_id
            assert nvml.nvmlDeviceGetMemoryInfo(device).total == gpu.model.memory_bytes
            assert (
                nvml.nvmlDeviceGetMemoryInfo(device, pynvml.nvmlMemory_v2).total
                == gpu.model.memory_bytes
            )
            assert nvml.nvmlDeviceGetSerial(device) == gpu.serial
            assert nvml.nvmlDeviceGetModuleId(device) == gpu.module_id
            assert nvml.nvmlDeviceGetHandleByUUID(gpu.uuid).contents is not None
            by_bus = nvml.nvmlDeviceGetHandleByPciBusId(gpu.bdf)
            assert nvml.nvmlDeviceGetIndex(by_bus) == gpu.index


def test_a_handle_by_uuid_is_the_handle_by_index(h100: SimRoot) -> None:
    with session(h100.nvml_library) as nvml:
        for gpu in h100.profile.gpus:
            assert nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)) == gpu.index
        with pytest.raises(pynvml.NVMLError_NotFound):
            nvml.nvmlDeviceGetHandleByUUID("GPU-00000000-0000-0000-0000-000000000000")


def test_affinity_follows_the_profile(h100: SimRoot) -> None:
    with session(h100.nvml_library) as nvml:
        words = nvml.nvmlDeviceGetCpuAffinity(nvml.nvmlDeviceGetHandleByIndex(0), 4)
        assert words[0] == (1 << 56) - 1
        assert words[1] == ((1 << 56) - 1) << 48 & (1 << 64) - 1
        memory = nvml.nvmlDeviceGetMemoryAffinity(nvml.nvmlDeviceGetHandleByIndex(4), 1, 0)
        assert list(memory) == [0b10]


def test_gpus_behind_one_switch_are_nearer_than_others(a100: SimRoot) -> None:
    with session(a100.nvml_library) as nvml:
        devices = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(4)]
        level = nvml.nvmlDeviceGetTopologyCommonAncestor
        assert level(devices[0], devices[1]) == pynvml.NVML_TOPOLOGY_SINGLE
        assert level(devices[0], devices[2]) == pynvml.NVML_TOPOLOGY_SYSTEM


def test_trays_of_a_rack_share_only_cluster_and_clique(tmp_path: Path) -> None:
    seen, uuids = set(), set()
    for node in range(3):
        root = SimRoot.create(tmp_path / f"node{node}", "gb200-nvl4", node=node)
        with session(root.nvml_library) as nvml:
            for i in range(4):
                device = nvml.nvmlDeviceGetHandleByIndex(i)
                info = pynvml.c_nvmlGpuFabricInfo_v3_t()
                nvml.nvmlDeviceGetGpuFabricInfoV(device, pynvml.byref(info))
                assert info.state == pynvml.NVML_GPU_FABRIC_STATE_COMPLETED
                seen.add((bytes(info.clusterUuid), info.cliqueId))
                uuids.add(nvml.nvmlDeviceGetUUID(device))
    expected = bytes.fromhex(root.profile.fabric.cluster_uuid.replace("-", ""))
    assert seen == {(expected, root.profile.fabric.clique_id)}
    assert len(uuids) == 12


def test_gpus_without_fabric_report_not_supported(a100: SimRoot) -> None:
    with session(a100.nvml_library) as nvml, pytest.raises(pynvml.NVMLError_NotSupported):
        info = pynvml.c_nvmlGpuFabricInfo_v2_t()
        nvml.nvmlDeviceGetGpuFabricInfoV(nvml.nvmlDeviceGetHandleByIndex(0), pynvml.byref(info))


def test_fabric_state_can_be_set_while_a_client_runs(gb200: SimRoot) -> None:
    with session(gb200.nvml_library) as nvml:
        device = nvml.nvmlDeviceGetHandleByIndex(1)
        info = pynvml.c_nvmlGpuFabricInfo_v2_t()
        gb200.set_gpu(1, fabric_state=pynvml.NVML_GPU_FABRIC_STATE_IN_PROGRESS)
        nvml.nvmlDeviceGetGpuFabricInfoV(device, pynvml.byref(info))
        assert (info.state, bytes(info.clusterUuid)) == (
            pynvml.NVML_GPU_FABRIC_STATE_IN_PROGRESS,
            bytes(16),
        )


def test_a_gpu_without_its_node_is_invisible(h100: SimRoot) -> None:
    (h100.path / "dev/nvidia0").unlink()
    (h100.path / "dev/nvidia5").unlink()
    with session(h100.nvml_library) as nvml:
        found = [
            nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(i))
            for i in range(nvml.nvmlDeviceGetCount())
        ]
    assert found == [gpu.uuid for gpu in h100.profile.gpus if gpu.minor not in (0, 5)]


def test_without_any_gpu_only_the_tolerant_init_succeeds(h100: SimRoot) -> None:
    for gpu in h100.profile.gpus:
        (h100.path / f"dev/nvidia{gpu.minor}").unlink()
    with pytest.raises(pynvml.NVMLError), session(h100.nvml_library):
        pass
    with session(h100.nvml_library, flags=pynvml.NVML_INIT_FLAG_NO_GPUS) as nvml:
        assert nvml.nvmlDeviceGetCount() == 0


def test_in_a_container_the_library_file_alone_is_enough(h100: SimRoot, tmp_path: Path) -> None:
    """A CDI spec mounts the library and nodes; profile and state travel in the library file."""
    container = tmp_path / "container"
    (container / "usr/lib").mkdir(parents=True)
    (container / "dev").mkdir()
    inside = container / "usr/lib" / h100.nvml_library.resolve().name
    inside.hardlink_to(h100.nvml_library.resolve())
    for node in ("nvidiactl", "nvidia3"):
        (container / "dev" / node).touch()
    with session(inside) as nvml:
        assert nvml.nvmlDeviceGetCount() == 1
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        assert nvml.nvmlDeviceGetUUID(device) == h100.profile.gpus[3].uuid
        with pytest.raises(pynvml.NVMLError_NoPermission):
            nvml.nvmlDeviceSetMigMode(device, 1)
        h100.lose(3)
        with pytest.raises(pynvml.NVMLError_GpuIsLost):
            nvml.nvmlDeviceGetName(device)


def test_enumeration_of_eight_gpus_takes_under_5_ms(h100: SimRoot) -> None:
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        with session(h100.nvml_library) as nvml:
            for i in range(nvml.nvmlDeviceGetCount()):
                device = nvml.nvmlDeviceGetHandleByIndex(i)
                nvml.nvmlDeviceGetUUID(device)
                nvml.nvmlDeviceGetMemoryInfo(device)
                nvml.nvmlDeviceGetPciInfo(device)
        best = min(best, time.perf_counter() - start)
    assert best < 0.005
