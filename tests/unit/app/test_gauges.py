"""States that are told at each scrape."""

from __future__ import annotations

from pathlib import Path

from nvdra_core.runtime.clock import FakeClock
from nvdra_core.runtime.metrics import Registry
from nvdra_core.runtime.pluginmetrics import PluginMetrics
from nvdra_node.app import gauges
from nvdra_node.checkpoint.model import PreparedDevice, Record, RecordState
from nvdra_node.checkpoint.store import RecordStore
from nvdra_node.kubeletplugin.driver import DeviceHealth, Health, Pool
from nvdra_node.kubeletplugin.readiness import Readiness
from nvdra_node.kubeletplugin.slices.publisher import PublishStatus
from tests.fakes.host.files import FakeFiles

GPU = PreparedDevice(request="r", pool="node", device="gpu-0", cdi_ids=("a/b=c",), kind="gpu")


class Driver:
    name = "gpu.nvidia.com"

    def pool(self) -> Pool:
        return Pool(health=(DeviceHealth(device="gpu-0", health=Health.HEALTHY),))


class Publisher:
    def published(self) -> PublishStatus:
        return PublishStatus(devices=1)


def a_record(uid: str, boot_id: str, state: RecordState = RecordState.COMPLETED) -> Record:
    return Record(
        uid=uid, namespace="ns", name=uid, state=state, boot_id=boot_id, devices=(GPU, GPU)
    )


def test_records_in_quarantine_count_after_each_start():
    files = FakeFiles()
    files.put(Path("/state/claims/c1.json"), b"garbage")
    for _ in range(3):
        registry, records = Registry(), RecordStore(Path("/state"), files)
        records.load()
        metrics = PluginMetrics(
            registry, FakeClock(), driver=Driver.name, node="node", device_types=("gpu",)
        )
        owners = gauges.Owners(
            driver=Driver(),
            records=records,
            publisher=Publisher(),
            boot_id="now",
            hangs=int,
            readiness=Readiness(),
        )
        gauges.add(registry, metrics, owners)
        text = registry.render().decode()
        assert 'nvidia_dra_records_quarantined{driver="gpu.nvidia.com"} 1\n' in text


def test_devices_count_as_prepared_in_the_boot_that_prepared_them():
    registry, records = Registry(), RecordStore(Path("/state"), FakeFiles())
    metrics = PluginMetrics(
        registry, FakeClock(), driver=Driver.name, node="node", device_types=("gpu",)
    )
    owners = gauges.Owners(
        driver=Driver(),
        records=records,
        publisher=Publisher(),
        boot_id="now",
        hangs=lambda: 3,
        readiness=Readiness(),
    )
    gauges.add(registry, metrics, owners)
    records.put(a_record("c1", "now"))
    records.put(a_record("c2", "before"))
    records.put(a_record("c3", "now", RecordState.STARTED))
    text = registry.render().decode()
    assert 'nvidia_dra_prepare_ready{driver="gpu.nvidia.com"} 1\n' in text
    owners.readiness.report("driver files", "no hook")
    assert 'nvidia_dra_prepare_ready{driver="gpu.nvidia.com"} 0\n' in registry.render().decode()
    prepared = 'driver="gpu.nvidia.com",device_type="gpu"'
    assert f'nvidia_dra_prepared_devices{{node="node",{prepared}}} 2\n' in text
    assert 'nvidia_dra_nvml_hung_total{driver="gpu.nvidia.com"} 3\n' in text
