"""A definition of another release is noticed: fields that were written and are not there are told once."""

from __future__ import annotations

from nvdra_cluster.control.dropped_fields import DroppedFieldDetector, dropped
from nvdra_cluster.decide.writes import DOMAINS, Create, Merge

WRITE = Merge(
    DOMAINS.sub("status"),
    "team",
    "train",
    {
        "metadata": {"uid": "u1"},
        "status": {"status": "Ready", "assignment": None, "conditions": []},
    },
)


def test_what_the_server_dropped_is_found_and_what_was_taken_away_is_not():
    assert dropped(WRITE, {"status": {"status": "Ready"}}) == ("status.conditions",)
    assert dropped(WRITE, {"status": {"status": "Ready", "conditions": []}}) == ()
    assert dropped(Create(DOMAINS, {"metadata": {"name": "train"}}), {}) == ()


def test_it_is_told_once():
    schemas = DroppedFieldDetector()
    for _ in range(3):
        schemas.check(WRITE, {"status": {}})
    assert schemas.logged == {
        ("computedomains", "status.status"), ("computedomains", "status.conditions"),
    }  # fmt: skip
