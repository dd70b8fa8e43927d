"""The metrics of a plugin: upstream's names and labels, and outcomes."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nvdra_core.errors import ApiError, LockTimeoutError, NvmlHungError
from nvdra_core.runtime.clock import FakeClock
from nvdra_core.runtime.metrics import Registry
from nvdra_core.runtime.pluginmetrics import PREPARE, UNPREPARE, PluginMetrics, add_process_metrics

GPU = "gpu.nvidia.com"
UPSTREAM = {
    "nvidia_dra_requests": ("counter", {"driver", "operation"}),
    "nvidia_dra_request_duration_seconds": ("histogram", {"driver", "operation", "le"}),
    "nvidia_dra_requests_inflight": ("gauge", {"driver", "operation"}),
    "nvidia_dra_prepared_devices": ("gauge", {"node", "driver", "device_type"}),
    "nvidia_dra_node_prepare_errors": ("counter", {"driver", "error_type"}),
    "nvidia_dra_node_unprepare_errors": ("counter", {"driver", "error_type"}),
}


class Plugin:
    """Metrics of a GPU plugin and what a scrape of them sees."""

    def __init__(self) -> None:
        self.registry, self.clock = Registry(), FakeClock()
        types = ("gpu", "mig", "vfio")
        self.metrics = PluginMetrics(
            self.registry, self.clock, driver=GPU, node="n1", device_types=types
        )

    def scrape(self, name: str, **labels: str) -> float | None:
        for family in text_string_to_metric_families(self.registry.render().decode()):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return None


@pytest.fixture
def plugin() -> Plugin:
    return Plugin()


def test_upstreams_families_have_upstreams_types_and_labels_from_the_start(plugin):
    families = {
        f.name: f for f in text_string_to_metric_families(plugin.registry.render().decode())
    }
    for name, (kind, labels) in UPSTREAM.items():
        assert families[name].type == kind
        assert set().union(*(s.labels for s in families[name].samples)) == labels
        assert {s.value for s in families[name].samples} == {0}


def test_upstreams_buckets_are_kept(plugin):
    families = {
        f.name: f for f in text_string_to_metric_families(plugin.registry.render().decode())
    }
    bounds = [
        s.labels["le"]
        for s in families["nvidia_dra_request_duration_seconds"].samples
        if "le" in s.labels
    ]
    assert bounds == ["0.05", "0.1", "0.2", "0.4", "0.8", "1.6", "3.2", "6.4", "12.8", "+Inf"] * 2


def test_a_success_counts_in_upstreams_families_and_in_ours(plugin):
    with plugin.metrics.operation(PREPARE):
        assert plugin.scrape("nvidia_dra_requests_inflight", operation=PREPARE) == 1
        plugin.clock.advance(0.3)
    assert plugin.scrape("nvidia_dra_requests_inflight", operation=PREPARE) == 0
    assert plugin.scrape("nvidia_dra_requests_total", operation=PREPARE) == 1
    assert plugin.scrape("nvidia_dra_requests_total", operation=UNPREPARE) == 0
    assert plugin.scrape(
        "nvidia_dra_request_duration_seconds_sum", operation=PREPARE
    ) == pytest.approx(0.3)
    assert plugin.scrape("nvidia_dra_operations_total", operation=PREPARE, outcome="success") == 1


@pytest.mark.parametrize(
    ("operation", "error", "error_type", "outcome"),
    [
        (PREPARE, LockTimeoutError("x"), "lock_acquire", "lock_timeout"),
        (
            PREPARE,
            NvmlHungError("x", function="nvmlInit_v2", code=-1),
            "prepare_devices",
            "nvml_hung",
        ),
        (UNPREPARE, LockTimeoutError("x"), "lock_acquire", "lock_timeout"),
        (UNPREPARE, RuntimeError("x"), "unprepare_devices", "internal"),
    ],
)
def test_a_failure_goes_on_and_is_counted_with_its_outcome_only(
    plugin, operation, error, error_type, outcome
):
    with pytest.raises(type(error)), plugin.metrics.operation(operation):
        raise error
    assert plugin.scrape("nvidia_dra_requests_total", operation=operation) == 0
    assert plugin.scrape(f"nvidia_dra_node_{operation}_errors_total", error_type=error_type) == 1
    assert plugin.scrape("nvidia_dra_operations_total", operation=operation, outcome=outcome) == 1
    assert plugin.scrape("nvidia_dra_requests_inflight", operation=operation) == 0


def test_prepared_devices_are_what_was_said_last(plugin):
    plugin.metrics.set_prepared({"gpu": 2, "mig": 1})
    plugin.metrics.set_prepared({"gpu": 3})
    assert (
        plugin.scrape("nvidia_dra_prepared_devices", device_type="gpu", node="n1", driver=GPU) == 3
    )
    assert plugin.scrape("nvidia_dra_prepared_devices", device_type="mig") == 0


def test_publishing_is_counted_by_outcome(plugin):
    with plugin.metrics.publish():
        plugin.clock.advance(0.5)
    with pytest.raises(ApiError), plugin.metrics.publish():
        raise ApiError("no", status=409)
    plugin.metrics.publish_failed(PREPARE)
    assert plugin.scrape("nvidia_dra_slice_publishes_total", outcome="success") == 1
    assert plugin.scrape("nvidia_dra_slice_publishes_total", outcome="api") == 1
    assert plugin.scrape("nvidia_dra_slice_publish_duration_seconds_sum", outcome="success") == 0.5
    assert (
        plugin.scrape("nvidia_dra_node_prepare_errors_total", error_type="publish_resources") == 1
    )


def test_stages_and_claim_reads_are_counted(plugin):
    with plugin.metrics.stage(PREPARE, "cdi"):
        plugin.clock.advance(0.25)
    plugin.metrics.claim_read()
    plugin.metrics.claim_read("api")
    assert plugin.scrape("nvidia_dra_stage_duration_seconds_sum", stage="cdi") == 0.25
    assert plugin.scrape("nvidia_dra_claim_reads_total", outcome="api") == 1


def test_the_process_tells_its_build_and_its_use_of_the_machine():
    plugin = Plugin()
    add_process_metrics(plugin.registry, plugin.clock, version="1.2.3")
    assert plugin.scrape("nvidia_dra_build_info", version="1.2.3") == 1
    assert (plugin.scrape("process_resident_memory_bytes") or 0) > 1e6
    assert (plugin.scrape("process_open_fds") or 0) >= 3
    first = plugin.scrape("process_cpu_seconds_total") or 0
    assert 0 < first <= (plugin.scrape("process_cpu_seconds_total") or 0)
