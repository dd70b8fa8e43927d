"""Tables and JSON."""

import json

from tests.bench import report
from tests.bench.measures import PLUGIN, PODS, Measure
from tests.bench.report import Report

MEASURES = (
    Measure(key="time", label="time", unit="ms", goal=2.0),
    Measure(key="rate", label="rate", unit="/s", digits=0, higher_is_better=True, goal=100),
    Measure(key="never", label="never taken", unit=""),
)


def a_report() -> Report:
    return Report(
        title="title",
        measures=MEASURES,
        results={
            "ours": {"time": [1.0, 3.0, 2.0], "rate": [50.0]},
            "other": {"time": [4.0, 4.0, 4.0], "rate": [0.0]},
        },
        notes=["a note"],
    )


def test_table_has_medians_ranges_ratios_and_goals() -> None:
    lines = report.table(a_report()).splitlines()
    assert lines[1].split() == ["ours", "other", "ours/other", "goal"]
    assert lines[2].split() == [
        "time",
        "(ms)",
        "2.00",
        "(1.00..3.00)",
        "4.00",
        "0.5x",
        "<=",
        "2",
        "ok",
    ]
    assert lines[3].split() == ["rate", "(/s)", "50", "0", ">=", "100", "MISS"]
    assert lines[4:] == ["a note"]


def test_unmeasured_rows_are_left_out() -> None:
    assert "never" not in report.table(a_report())


def test_columns_stand_below_each_other() -> None:
    lines = report.table(a_report()).splitlines()
    assert lines[2].index("4.00") + 4 == lines[3].index(" 0 ") + 2


def test_misses_are_those_of_the_first_contender() -> None:
    assert [measure.key for measure in a_report().misses()] == ["rate"]


def test_json_keeps_rounds_and_ratio() -> None:
    document = json.loads(json.dumps(report.to_json(a_report())))
    row = document["measures"]["time"]
    assert row["ok"] is True
    assert row["contenders"]["ours"]["rounds"] == [1.0, 3.0, 2.0]
    assert row["contenders"]["other"]["ratio"] == 0.5
    assert document["measures"]["rate"]["contenders"]["other"]["ratio"] is None


def test_one_contender_has_no_ratio_column() -> None:
    alone = Report(title="t", measures=MEASURES, results={"ours": {"time": [1.0]}})
    assert report.table(alone).splitlines()[1].split() == ["ours", "goal"]


def test_measure_keys_are_unique() -> None:
    keys = [measure.key for measure in (*PLUGIN, *PODS)]
    assert len(keys) == len(set(keys))
