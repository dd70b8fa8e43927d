"""Which failed request is sent again, when, and what an error of the server says."""

from __future__ import annotations

import pytest

from nvdra_core.errors import ApiError
from nvdra_core.kube.errors import ClosedError, TransportError, status_error
from nvdra_core.kube.retry import Backoff, is_retryable, parse_retry_after


def an_error(status: int, retry_after_s: float | None = None) -> ApiError:
    return ApiError("no", status=status, retry_after_s=retry_after_s)


@pytest.mark.parametrize(
    ("error", "read", "create"),
    [
        (an_error(409), False, False),
        (an_error(404), False, False),
        (an_error(422), False, False),
        (an_error(429), True, True),
        (an_error(503), True, True),
        (an_error(500), True, False),
        (an_error(500, 1.0), True, True),
        (an_error(504), True, False),
        (an_error(501), False, False),
        (TransportError("lost"), True, False),
        (TransportError("refused", unsent=True), True, True),
        (ClosedError("closed", unsent=True), False, False),
    ],
    ids=str,
)
def test_retryable_errors(error: ApiError, read: bool, create: bool) -> None:
    assert is_retryable(error, is_idempotent=True) is read
    assert is_retryable(error, is_idempotent=False) is create


def test_pauses_double_up_to_the_limit() -> None:
    longest = Backoff(first_s=0.1, limit_s=1.0, random=lambda: 1.0)
    assert [longest.pause_s(n) for n in (0, 1, 2, 3, 4, 999)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    shortest = Backoff(first_s=0.1, limit_s=1.0, random=lambda: 0.0)
    assert shortest.pause_s(0) == 0.05


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("1", 1.0), (" 30 ", 30.0), ("999999", 300.0), ("", None), ("-1", None), ("soon", None)],
)
def test_retry_after_header_is_parsed(text: str, wanted: float | None) -> None:
    assert parse_retry_after(text) == wanted


def test_status_object_is_understood() -> None:
    body = b'{"kind":"Status","reason":"TooManyRequests","message":"slow","details":{"retryAfterSeconds":2}}'
    error = status_error("GET /x", 429, body, None)
    assert (error.status, error.api_reason, error.retry_after_s) == (429, "TooManyRequests", 2.0)
    assert "slow" in str(error)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"kind":"Status","reason":"NotFound","details":{"name":"x"}}', "NotFound"),
        (b'{"kind":"Status","reason":"NotFound","details":{}}', ""),
        (b"404 page not found", ""),
        (b"\xff\xfe", ""),
        (b"[]", ""),
    ],
)
def test_not_found_reason_is_for_objects_only(body: bytes, reason: str) -> None:
    assert status_error("GET /x", 404, body, None).api_reason == reason


def test_long_message_is_cut() -> None:
    assert len(str(status_error("GET /x", 500, b"x" * 100_000, None))) < 2000
