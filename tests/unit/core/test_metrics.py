"""The registry of a process: build info, process metrics, and the text format that upstream's scrapers know."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest

from nvdra_core.runtime.metrics import new_registry


def value(registry: CollectorRegistry, name: str) -> float:
    return registry.get_sample_value(name) or 0.0


def test_new_registry_has_build_info_and_process_metrics():
    registry = new_registry("1.2.3")
    assert registry.get_sample_value("nvidia_dra_build_info", {"version": "1.2.3"}) == 1
    assert value(registry, "process_resident_memory_bytes") > 1e6
    assert value(registry, "process_open_fds") >= 3
    assert value(registry, "process_threads") >= 1
    assert value(registry, "process_start_time_seconds") > 1e9
    first = value(registry, "process_cpu_seconds_total")
    assert 0 < first <= value(registry, "process_cpu_seconds_total")


def test_text_has_no_created_series_and_no_global_metrics():
    registry = new_registry("1.2.3")
    Counter("x_total", "Things", registry=registry).inc()
    Histogram("y_seconds", "Times", registry=registry).observe(1)
    text = generate_latest(registry).decode()
    assert "x_total 1.0\n" in text and "y_seconds_count 1.0\n" in text
    assert "_created" not in text and "python_info" not in text
    assert REGISTRY.get_sample_value("nvidia_dra_build_info", {"version": "1.2.3"}) is None
