"""A definition of another release is noticed: dropped fields are reported once."""

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


def test_dropped_fields_are_found_but_not_removed_ones():
    assert dropped(WRITE, {"status": {"status": "Ready"}}) == ("status.conditions",)
    assert dropped(WRITE, {"status": {"status": "Ready", "conditions": []}}) == ()
    assert dropped(Create(DOMAINS, {"metadata": {"name": "train"}}), {}) == ()


def test_dropped_field_is_logged_once():
    schemas = DroppedFieldDetector()
    for _ in range(3):
        schemas.check(WRITE, {"status": {}})
    assert schemas.logged == {
        ("computedomains", "status.status"), ("computedomains", "status.conditions"),
    }  # fmt: skip
