"""States of a plugin that are read at each scrape; and each family of a plugin's registry changes with its cause."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from nvdra_core.errors import ClaimError
from nvdra_node.app.gauges import PluginCollector, PluginState
from nvdra_node.checkpoint.model import PreparedDevice, Record, RecordState
from nvdra_node.checkpoint.store import RecordStore
from nvdra_node.kubeletplugin.driver import DeviceHealth, Health, Pool
from nvdra_node.kubeletplugin.metrics import OPERATIONS, PluginMetrics
from nvdra_node.kubeletplugin.readiness import Readiness
from nvdra_node.kubeletplugin.slices.publisher import PublishStatus
from tests.fakes.clock import FakeClock
from tests.fakes.host.files import FakeFiles

GPU = PreparedDevice(request="r", pool="node", device="gpu-0", cdi_ids=("a/b=c",), kind="gpu")
DRIVER = "gpu.nvidia.com"

Families = dict[str, list[tuple[str, float]]]


class Driver:
    name = DRIVER

    def __init__(self) -> None:
        self.health: tuple[DeviceHealth, ...] = ()

    def pool(self) -> Pool:
        return Pool(health=self.health)


class Publisher:
    devices = 0

    def published(self) -> PublishStatus:
        return PublishStatus(devices=self.devices)


class Scraped:
    """The registry of a plugin and the owners of its states."""

    def __init__(self, files: FakeFiles | None = None) -> None:
        self.registry, self.clock = CollectorRegistry(), FakeClock()
        self.metrics = PluginMetrics(self.registry, self.clock, DRIVER)
        self.records = RecordStore(Path("/state"), files or FakeFiles())
        self.driver, self.publisher, self.readiness = Driver(), Publisher(), Readiness()
        self.hangs = 0
        state = PluginState(
            driver=self.driver,
            records=self.records,
            publisher=self.publisher,
            readiness=self.readiness,
            hangs=lambda: self.hangs,
            node="node",
            boot_id="now",
            device_types=("gpu",),
        )
        self.registry.register(PluginCollector(state))

    def read(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"driver": DRIVER, **labels})

    def families(self) -> Families:
        return {
            family.name: [
                (f"{sample.name}{sample.labels}", sample.value)
                for sample in family.samples
                if not sample.name.endswith("_created")
            ]
            for family in self.registry.collect()
        }


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


def a_record(uid: str, boot_id: str, state: RecordState = RecordState.COMPLETED) -> Record:
    return Record(
        uid=uid, namespace="ns", name=uid, state=state, boot_id=boot_id, devices=(GPU, GPU)
    )


def test_every_family_of_a_plugin_changes_with_its_cause():
    files = FakeFiles()
    files.put(Path("/state/claims/c1.json"), b"garbage")
    scraped = Scraped(files)
    before = scraped.families()
    for operation in OPERATIONS:
        with scraped.metrics.operation(operation):
            busy = scraped.families()["nvidia_dra_requests_inflight"]
            assert busy != before["nvidia_dra_requests_inflight"]
        with suppress(ClaimError), scraped.metrics.operation(operation):
            raise ClaimError("no such device")
    with scraped.metrics.publish(), scraped.metrics.stage("prepare", "cdi"):
        scraped.metrics.claim_read()
    scraped.records.load()
    scraped.records.put(a_record("c2", "now"))
    scraped.driver.health = (DeviceHealth(device="gpu-0", health=Health.HEALTHY),)
    scraped.publisher.devices = 1
    scraped.readiness.report("driver files", "no hook")
    scraped.hangs = 3
    after = scraped.families()
    unchanged = {name for name in after if after[name] == before[name]}
    assert unchanged == {"nvidia_dra_requests_inflight"}  # seen above, while it was
    assert scraped.read("nvidia_dra_nvml_hung_total") == 3
    assert scraped.read("nvidia_dra_devices", health="healthy") == 1
    assert scraped.read("nvidia_dra_published_devices") == 1
    assert scraped.read("nvidia_dra_prepare_ready") == 0
    assert scraped.read("nvidia_dra_journal_writes_total") == 1


def test_quarantined_records_count_after_each_start():
    files = FakeFiles()
    files.put(Path("/state/claims/c1.json"), b"garbage")
    for _ in range(3):
        scraped = Scraped(files)
        scraped.records.load()
        assert scraped.read("nvidia_dra_records_quarantined") == 1


def test_prepared_devices_count_those_of_this_boot(scraped):
    scraped.records.put(a_record("c1", "now"))
    scraped.records.put(a_record("c2", "before"))
    scraped.records.put(a_record("c3", "now", RecordState.STARTED))
    prepared = "nvidia_dra_prepared_devices"
    assert scraped.read(prepared, node="node", device_type="gpu") == 2
    assert scraped.read(prepared, node="node", device_type="unknown") == 0
