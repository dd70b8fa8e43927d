"""A node that may read no claim: reported by a refused prepare, ended by a probe."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from nvdra_core.errors import ApiError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.kubeletplugin.claims.access import ClaimAccess
from tests.fakes.clock import FakeClock

NO_RIGHT = ApiError(
    'resourceclaims "c" is forbidden: User "n" cannot get resource "resourceclaims"', status=403
)
NOT_OURS = ApiError(
    'User "system:node:n" cannot get resource "resourceclaims": no relationship found', status=403
)
EXPIRED = ApiError("Unauthorized", status=401)
NOT_FOUND = ApiError("not found", status=404)


class Api:
    def __init__(self) -> None:
        self.reply: ApiError | None = NOT_FOUND
        self.requests = 0

    def get_claim(self, namespace: str, name: str, *, deadline: Deadline | None = None) -> Any:
        self.requests += 1
        if self.reply is not None:
            raise self.reply
        return {}


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def access(api: Api, reports: list[str]) -> ClaimAccess:
    return ClaimAccess(api, reports.append, FakeClock())


@pytest.mark.parametrize("error", [NOT_OURS, NOT_FOUND, ApiError("down", status=0)])
def test_other_errors_are_not_reported(
    api: Api, reports: list[str], access: ClaimAccess, error: ApiError
) -> None:
    access.failed(error)
    access.probe()
    assert reports == [] and api.requests == 0


@pytest.mark.parametrize("refusal", [NO_RIGHT, EXPIRED])
@pytest.mark.parametrize("reply", [NOT_FOUND, NOT_OURS, None])
def test_refusal_lasts_until_a_probe_succeeds(
    api: Api, reports: list[str], access: ClaimAccess, refusal: ApiError, reply: ApiError | None
) -> None:
    access.failed(refusal)
    (text,) = reports
    assert f"to read ResourceClaims ({refusal.status})" in text
    for still in (refusal, ApiError("down", status=0), ApiError("slow down", status=429)):
        api.reply = still
        access.probe()
    assert len(reports) == 1
    api.reply = reply
    access.probe()
    assert reports[1:] == [""]
    access.probe()
    assert api.requests == 4


def test_refusal_reported_during_a_probe_is_probed_again(api: Api) -> None:
    cause = ""
    is_reporting, has_probed = threading.Event(), threading.Event()

    def report(text: str) -> None:
        nonlocal cause
        if text and cause:  # the second refusal is held up on its way
            is_reporting.set()
            has_probed.wait(0.2)
        cause = text

    access = ClaimAccess(api, report, FakeClock())
    access.failed(NO_RIGHT)
    second = threading.Thread(target=access.failed, args=(NO_RIGHT,))
    second.start()
    assert is_reporting.wait(10.0)
    access.probe()
    has_probed.set()
    second.join(10.0)
    access.probe()
    assert cause == ""
