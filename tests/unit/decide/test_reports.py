"""How far node reports count, by their evidence."""

from __future__ import annotations

from typing import Any

import pytest

from nvdra_cluster.decide.domain import reports
from nvdra_cluster.decide.domain.reports import (
    UNCONFIRMED_HOLD_S,
    Judgement,
    ReportEvidence,
    UnverifiedReport,
)

SOON = UnverifiedReport("tray-a", "u1", is_urgent=False)
URGENT = UnverifiedReport("tray-a", "u1", is_urgent=True)


def evidence(**fields: Any) -> ReportEvidence:
    return ReportEvidence(**{"node": "tray-a", "domain_uid": "u1", "has_claims": True, **fields})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"has_claims": False, "is_assigned": True}, Judgement(False)),
        ({"is_assigned": True}, Judgement(True)),
        ({"is_confirmed": True}, Judgement(True)),
        ({}, Judgement(False, SOON)),
        ({"refuted_s": 0.0}, Judgement(False)),
    ],
)
def test_report_makes_member(fields: dict[str, Any], expected: Judgement):
    assert reports.as_member(evidence(**fields)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"is_watched": True, "refuted_s": 1.0}, Judgement(True)),
        ({}, Judgement(True, URGENT)),
        ({"refuted_s": 0.0}, Judgement(False, URGENT)),
        ({"refuted_s": 0.0, "is_assigned": True}, Judgement(True, URGENT)),
        ({"refuted_s": 0.0, "was_assigned": True}, Judgement(True, URGENT)),
        ({"refuted_s": UNCONFIRMED_HOLD_S, "is_assigned": True}, Judgement(False, URGENT)),
        (
            {"refuted_s": UNCONFIRMED_HOLD_S, "is_assigned": True, "is_lost": True},
            Judgement(True, URGENT),
        ),
    ],
)
def test_report_holds_deletion(fields: dict[str, Any], expected: Judgement):
    assert reports.as_holder(evidence(**fields)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"is_assigned": True}, Judgement(True)),
        ({"is_assigned": True, "has_claims": False}, Judgement(False)),
        ({"was_assigned": True, "has_claims": False, "is_lost": True}, Judgement(True)),
        ({"has_claims": False}, Judgement(False)),
        ({"refuted_s": 0.0}, Judgement(False)),
        ({}, Judgement(True, URGENT)),
    ],
)
def test_report_holds_number(fields: dict[str, Any], expected: Judgement):
    assert reports.as_number_holder(evidence(**fields)) == expected
