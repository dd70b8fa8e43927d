"""Outcomes of prepares: which reach the claim's status, and which the readiness checks."""

from __future__ import annotations

import contextlib

import pytest

from nvdra_core.errors import ApiError, FileError, HostError, NvdraError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.checkpoint.claim import ClaimRef, ClaimUID
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.kubeletplugin.reporting import ReportingHandler
from tests.fakes.clock import FakeClock

REF = ClaimRef("ns", "c", ClaimUID("c1"))
DEADLINE = Deadline(1.0, FakeClock())


class Handler:
    def __init__(self, error: NvdraError | None) -> None:
        self.error = error

    def prepare(self, ref: ClaimRef, deadline: Deadline) -> tuple[PreparedDevice, ...]:
        if self.error is not None:
            raise self.error
        return ()

    def unprepare(self, ref: ClaimRef, deadline: Deadline) -> None:
        pass


class Status:
    def __init__(self) -> None:
        self.claims: set[str] = set()

    def prepared(self, ref: ClaimRef, devices: tuple[PreparedDevice, ...]) -> None:
        self.claims.add(ref.uid)

    def forget(self, ref: ClaimRef) -> None:
        self.claims.remove(ref.uid)


@pytest.mark.parametrize(
    ("error", "is_reported"),
    [
        (None, False),
        (HostError("GPU is lost"), False),
        (FileError("disk full", path="/x"), True),
        (ApiError("no", status=403), True),
    ],
)
def test_error_that_fails_other_claims_too_is_reported(
    error: NvdraError | None, is_reported: bool
) -> None:
    reports: list[NvdraError] = []
    status = Status()
    handler = ReportingHandler(Handler(error), status, reports.append)
    with contextlib.suppress(NvdraError):
        handler.prepare(REF, DEADLINE)
    assert bool(reports) is is_reported
    assert status.claims == (set() if error else {"c1"})


def test_unprepare_drops_the_status() -> None:
    status = Status()
    handler = ReportingHandler(Handler(None), status, lambda error: None)
    handler.prepare(REF, DEADLINE)
    handler.unprepare(REF, DEADLINE)
    assert status.claims == set()
