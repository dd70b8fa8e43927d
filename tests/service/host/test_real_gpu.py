"""The real driver, where there is one. Reads only."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvdra_core.runtime.clock import SystemClock
from nvdra_node.gpu.inventory.discover import discover
from nvdra_node.gpu.model import GpuState
from nvdra_node.host.host import open_host
from nvdra_node.host.ports import HostRoots
from tests.beds.memory.gpu_objects import a_pool

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not Path("/proc/driver/nvidia/version").exists(), reason="no NVIDIA driver is loaded here"
    ),
]


def test_all_gpus_of_this_machine_are_read() -> None:
    host = open_host(HostRoots())
    try:
        result = discover(host, SystemClock())
        while result.waiting:  # without persistence mode the first use takes seconds
            result = discover(host, SystemClock(), before=result.inventory)
    finally:
        host.close()
    assert result.is_complete and result.inventory.driver_version == host.sysfs.driver_version()
    for gpu in result.inventory.gpus:
        assert gpu.state is GpuState.OK, gpu.message
        assert "Unknown" not in (gpu.architecture, gpu.brand)
        assert host.sysfs.device_node(Path(f"/dev/nvidia{gpu.minor}")) is not None
    assert a_pool(result.inventory).health
