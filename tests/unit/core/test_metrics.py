"""Metrics: counted right, and rendered as Prometheus' own parser reads it."""

import math
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from nvdra_core.runtime.metrics import Registry, exponential_buckets


def parse(registry: Registry) -> dict[str, Family]:
    return {
        family.name: family for family in text_string_to_metric_families(registry.render().decode())
    }


def values(family: Family) -> dict[tuple[str, ...], float]:
    return {(s.name, *(v for _, v in sorted(s.labels.items()))): s.value for s in family.samples}


def test_a_counter_counts_by_labels():
    registry = Registry()
    counter = registry.counter("x_total", "Things", ("a", "b"))
    counter.inc("1", "2")
    counter.inc("1", "2", by=2.5)
    counter.seed("1", "3")
    family = parse(registry)["x"]
    assert (family.type, family.documentation) == ("counter", "Things")
    assert values(family) == {("x_total", "1", "2"): 3.5, ("x_total", "1", "3"): 0}


def test_a_metric_without_labels_exists_at_zero():
    registry = Registry()
    registry.counter("x_total", "Things")
    assert values(parse(registry)["x"]) == {("x_total",): 0}


def test_a_gauge_is_set_changed_and_replaced_as_a_whole():
    registry = Registry()
    gauge = registry.gauge("x", "Things", ("a",))
    gauge.set(5, "old")
    gauge.add(-2, "old")
    assert gauge.value("old") == 3
    gauge.replace({("new",): 7})
    assert values(parse(registry)["x"]) == {("x", "new"): 7}


def test_a_histogram_is_cumulative_and_bounds_are_inclusive():
    registry = Registry()
    histogram = registry.histogram("x_seconds", "Times", ("a",), buckets=(0.1, 1))
    for measure in (0.1, 0.5, 1.0, 7.0):
        histogram.observe(measure, "v")
    found = parse(registry)["x_seconds"]
    assert found.type == "histogram"
    assert [(s.name, s.labels.get("le"), s.value) for s in found.samples] == [
        ("x_seconds_bucket", "0.1", 1.0),
        ("x_seconds_bucket", "1", 3.0),
        ("x_seconds_bucket", "+Inf", 4.0),
        ("x_seconds_sum", None, 8.6),
        ("x_seconds_count", None, 4.0),
    ]
    assert histogram.count("v") == 4


@pytest.mark.parametrize("wrong", [(), ("a", "b")])
def test_a_wrong_number_of_label_values_is_a_programming_error(wrong):
    registry = Registry()
    with pytest.raises(ValueError, match="has labels"):
        registry.counter("x_total", "Things", ("a",)).inc(*wrong)
    with pytest.raises(ValueError, match="has labels"):
        registry.gauge("x", "Things", ("a",)).set(1, *wrong)
    with pytest.raises(ValueError, match="has labels"):
        registry.histogram("y", "Things", ("a",), buckets=(1,)).observe(1, *wrong)


def test_a_name_is_given_once():
    registry = Registry()
    registry.gauge("x", "Things")
    with pytest.raises(ValueError, match="there already"):
        registry.counter("x", "Others")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters='\n\\"')))
def test_any_label_value_and_help_survive(text):
    registry = Registry()
    registry.gauge("x", text, ("a",)).set(1, text)
    assert parse(registry)["x"].samples[0].labels == {"a": text}


@given(st.floats(allow_nan=False))
def test_any_number_survives(number):
    registry = Registry()
    registry.gauge("x", "Things").set(number)
    if abs(number) != math.inf:
        assert parse(registry)["x"].samples[0].value == number


def test_what_is_refreshed_is_read_at_each_rendering():
    registry = Registry()
    gauge = registry.gauge("x", "Things")
    registry.before_render(lambda: gauge.add(1))
    assert values(parse(registry)["x"]) == {("x",): 1}
    assert values(parse(registry)["x"]) == {("x",): 2}


def test_scrapes_at_the_same_time_do_not_count_twice():
    registry = Registry()
    counter = registry.counter("x_total", "Things")
    both = threading.Barrier(2)

    def catch_up() -> None:
        seen = counter.value()
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)
        counter.inc(by=10 - seen)

    registry.before_render(catch_up)
    scrapes = [threading.Thread(target=registry.render) for _ in range(2)]
    for scrape in scrapes:
        scrape.start()
    for scrape in scrapes:
        scrape.join()
    assert counter.value() == 10


def test_counting_from_many_threads_loses_nothing():
    registry = Registry()
    counter = registry.counter("x_total", "Things", ("a",))
    histogram = registry.histogram("y", "Things", ("a",), buckets=(1, 2))

    def count() -> None:
        for _ in range(2000):
            counter.inc("v")
            histogram.observe(1.5, "v")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.value("v") == histogram.count("v") == 8000


def test_exponential_buckets_are_upstreams():
    assert exponential_buckets(0.05, 2, 9) == (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)
