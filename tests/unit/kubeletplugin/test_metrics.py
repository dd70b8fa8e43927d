"""The metrics of a plugin: upstream's names, types, labels and buckets, and every outcome counted."""

import pytest
from prometheus_client import CollectorRegistry

from nvdra_core.errors import ApiError, LockTimeoutError, NvmlHungError
from nvdra_node.kubeletplugin.metrics import PREPARE, UNPREPARE, PluginMetrics
from tests.fakes.clock import FakeClock

GPU = "gpu.nvidia.com"
UPSTREAM = {
    "nvidia_dra_requests": ("counter", {"driver", "operation"}),
    "nvidia_dra_request_duration_seconds": ("histogram", {"driver", "operation", "le"}),
    "nvidia_dra_requests_inflight": ("gauge", {"driver", "operation"}),
    "nvidia_dra_node_prepare_errors": ("counter", {"driver", "error_type"}),
    "nvidia_dra_node_unprepare_errors": ("counter", {"driver", "error_type"}),
}


class Plugin:
    """Metrics of a GPU plugin and what a scrape of them sees."""

    def __init__(self) -> None:
        self.registry, self.clock = CollectorRegistry(), FakeClock()
        self.metrics = PluginMetrics(self.registry, self.clock, GPU)

    def scrape(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"driver": GPU, **labels})


@pytest.fixture
def plugin() -> Plugin:
    return Plugin()


def test_upstream_families_have_types_and_labels_from_start(plugin):
    families = {family.name: family for family in plugin.registry.collect()}
    for name, (kind, labels) in UPSTREAM.items():
        samples = [s for s in families[name].samples if not s.name.endswith("_created")]
        assert families[name].type == kind
        assert set().union(*(s.labels for s in samples)) == labels
        assert {s.value for s in samples} == {0}


def test_upstream_buckets_are_kept(plugin):
    families = {family.name: family for family in plugin.registry.collect()}
    samples = families["nvidia_dra_request_duration_seconds"].samples
    bounds = [s.labels["le"] for s in samples if "le" in s.labels]
    assert bounds == ["0.05", "0.1", "0.2", "0.4", "0.8", "1.6", "3.2", "6.4", "12.8", "+Inf"] * 2


def test_success_counts_in_upstream_families_and_in_ours(plugin):
    with plugin.metrics.operation(PREPARE):
        assert plugin.scrape("nvidia_dra_requests_inflight", operation=PREPARE) == 1
        plugin.clock.advance(0.3)
    assert plugin.scrape("nvidia_dra_requests_inflight", operation=PREPARE) == 0
    assert plugin.scrape("nvidia_dra_requests_total", operation=PREPARE) == 1
    assert plugin.scrape("nvidia_dra_requests_total", operation=UNPREPARE) == 0
    duration = plugin.scrape("nvidia_dra_request_duration_seconds_sum", operation=PREPARE)
    assert duration == pytest.approx(0.3)
    done = {"operation": PREPARE, "outcome": "success"}
    assert plugin.scrape("nvidia_dra_operations_total", **done) == 1
    assert plugin.scrape("nvidia_dra_operation_duration_seconds_count", **done) == 1


HUNG = NvmlHungError("x", function="nvmlInit_v2", code=-1)


@pytest.mark.parametrize(
    ("operation", "error", "error_type", "outcome"),
    [
        (PREPARE, LockTimeoutError("x"), "lock_acquire", "lock_timeout"),
        (PREPARE, HUNG, "prepare_devices", "nvml_hung"),
        (UNPREPARE, LockTimeoutError("x"), "lock_acquire", "lock_timeout"),
        (UNPREPARE, RuntimeError("x"), "unprepare_devices", "internal"),
    ],
)
def test_failure_is_raised_and_counted_with_its_outcome_only(
    plugin, operation, error, error_type, outcome
):
    with pytest.raises(type(error)), plugin.metrics.operation(operation):
        raise error
    assert plugin.scrape("nvidia_dra_requests_total", operation=operation) == 0
    assert plugin.scrape(f"nvidia_dra_node_{operation}_errors_total", error_type=error_type) == 1
    assert plugin.scrape("nvidia_dra_operations_total", operation=operation, outcome=outcome) == 1
    assert plugin.scrape("nvidia_dra_requests_inflight", operation=operation) == 0


def test_publishing_is_counted_by_outcome(plugin):
    with plugin.metrics.publish():
        plugin.clock.advance(0.5)
    with pytest.raises(ApiError), plugin.metrics.publish():
        raise ApiError("no", status=409)
    assert plugin.scrape("nvidia_dra_slice_publishes_total", outcome="success") == 1
    assert plugin.scrape("nvidia_dra_slice_publishes_total", outcome="api") == 1
    assert plugin.scrape("nvidia_dra_slice_publish_duration_seconds_sum", outcome="success") == 0.5


def test_stages_and_claim_reads_are_counted(plugin):
    with plugin.metrics.stage(PREPARE, "cdi"):
        plugin.clock.advance(0.25)
    plugin.metrics.claim_read()
    plugin.metrics.claim_read("api")
    stage = {"operation": PREPARE, "stage": "cdi"}
    assert plugin.scrape("nvidia_dra_stage_duration_seconds_sum", **stage) == 0.25
    assert plugin.scrape("nvidia_dra_claim_reads_total", outcome="api") == 1
