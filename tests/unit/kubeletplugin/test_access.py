"""A node that may read no claim: known from a refused prepare, and over when a probe is not refused."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from nvdra_core.errors import ApiError
from nvdra_core.runtime.clock import Deadline, FakeClock
from nvdra_node.kubeletplugin.claims.access import ClaimAccess

NO_RIGHT = ApiError(
    'resourceclaims "c" is forbidden: User "n" cannot get resource "resourceclaims"', status=403
)
NOT_OURS = ApiError(
    'User "system:node:n" cannot get resource "resourceclaims": no relationship found', status=403
)
EXPIRED = ApiError("Unauthorized", status=401)
GONE = ApiError("not found", status=404)


class Api:
    def __init__(self) -> None:
        self.answer: ApiError | None = GONE
        self.asked = 0

    def get_claim(self, namespace: str, name: str, *, deadline: Deadline | None = None) -> Any:
        self.asked += 1
        if self.answer is not None:
            raise self.answer
        return {}


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def rights(api: Api, reports: list[str]) -> ClaimAccess:
    return ClaimAccess(api, reports.append, FakeClock())


@pytest.mark.parametrize("error", [NOT_OURS, GONE, ApiError("down", status=0)])
def test_other_errors_of_a_prepare_say_nothing_of_the_next(
    api: Api, reports: list[str], rights: ClaimAccess, error: ApiError
) -> None:
    rights.failed(error)
    rights.probe()
    assert reports == [] and api.asked == 0


@pytest.mark.parametrize("refusal", [NO_RIGHT, EXPIRED])
@pytest.mark.parametrize("answer", [GONE, NOT_OURS, None])
def test_refusal_lasts_until_a_probe_is_answered(
    api: Api, reports: list[str], rights: ClaimAccess, refusal: ApiError, answer: ApiError | None
) -> None:
    rights.failed(refusal)
    (text,) = reports
    assert f"to read ResourceClaims ({refusal.status})" in text
    for still in (refusal, ApiError("down", status=0), ApiError("slow down", status=429)):
        api.answer = still
        rights.probe()
    assert len(reports) == 1
    api.answer = answer
    rights.probe()
    assert reports[1:] == [""]
    rights.probe()
    assert api.asked == 4


def test_refusal_reported_beside_a_passed_probe_is_probed_again(api: Api) -> None:
    cause = ""
    is_reporting, has_probed = threading.Event(), threading.Event()

    def report(text: str) -> None:
        nonlocal cause
        if text and cause:  # the second refusal is held up on its way
            is_reporting.set()
            has_probed.wait(0.2)
        cause = text

    rights = ClaimAccess(api, report, FakeClock())
    rights.failed(NO_RIGHT)
    second = threading.Thread(target=rights.failed, args=(NO_RIGHT,))
    second.start()
    assert is_reporting.wait(10.0)
    rights.probe()
    has_probed.set()
    second.join(10.0)
    rights.probe()
    assert cause == ""
