"""Percentiles, spreads and goals."""

import pytest

from tests.bench.measures import Measure
from tests.bench.stats import Spread, percentile, spread


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([5.0], 99, 5.0),
        ([1.0, 2.0, 3.0], 50, 2.0),
        ([1.0, 2.0], 50, 1.5),
        ([3.0, 1.0, 2.0], 0, 1.0),
        ([3.0, 1.0, 2.0], 100, 3.0),
        ([float(n) for n in range(101)], 99, 99.0),
    ],
)
def test_percentile_interpolates_between_ordered_values(
    values: list[float], percent: float, expected: float
) -> None:
    assert percentile(values, percent) == pytest.approx(expected)


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_spread_is_median_and_range() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("higher_is_better", "value", "expected"),
    [
        (False, 2.0, True),
        (False, 2.004, True),
        (False, 2.01, False),
        (True, 1.9, False),
        (True, 3.0, True),
    ],
)
def test_a_value_shown_as_the_goal_reaches_it(
    higher_is_better: bool, value: float, expected: bool
) -> None:
    measure = Measure(key="k", label="l", unit="s", goal=2.0, higher_is_better=higher_is_better)
    assert measure.is_met(value) is expected


def test_a_measure_without_goal_is_neither_met_nor_missed() -> None:
    assert Measure(key="k", label="l", unit="s").is_met(1.0) is None


@pytest.mark.parametrize(
    ("value", "upstream", "is_met"),
    [(55.0, None, True), (60.0, None, False), (60.0, 100.0, True), (60.0, 65.0, False)],
)
def test_goal_or_share_of_upstream_is_enough(
    value: float, upstream: float | None, is_met: bool
) -> None:
    measure = Measure(key="k", label="l", unit="MB", goal=56, share=0.85)
    assert measure.is_met(value, upstream) is is_met


def test_share_without_upstream_is_undecided() -> None:
    rate = Measure(key="k", label="l", unit="/s", share=4, higher_is_better=True)
    assert rate.is_met(100) is None
    assert (rate.is_met(100, 20), rate.is_met(100, 30)) == (True, False)
