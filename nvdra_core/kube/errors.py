"""Errors of API requests: ``TransportError`` without a response, ``status_error`` for a response outside 2xx."""

from __future__ import annotations

import json

from nvdra_core.errors import ApiError


class TransportError(ApiError):
    """No complete response. ``unsent``: the server got no request, so that any verb may be sent again."""

    def __init__(self, message: str, *, unsent: bool = False) -> None:
        super().__init__(message, status=0)
        self.unsent = unsent


class ClosedError(TransportError):
    """The client was closed."""


MESSAGE_LIMIT = 1024
"""Characters that are kept of the server's message, for logs and pod events."""


def status_error(what: str, status: int, body: bytes, retry_after_s: float | None) -> ApiError:
    """The error for a response outside 2xx.

    ``api_reason`` is Status.reason; empty when the body is no Status object, and for a 404 of an unknown path. So
    ``NotFound`` always means that the object does not exist.
    """
    reason = ""
    message = body[:MESSAGE_LIMIT].decode("utf-8", "replace").strip()
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and answer.get("kind") == "Status":
        reason = str(answer.get("reason") or "")
        message = str(answer.get("message") or "")[:MESSAGE_LIMIT]
        details = answer.get("details") or {}
        if retry_after_s is None and details.get("retryAfterSeconds"):
            retry_after_s = float(details["retryAfterSeconds"])
        if status == 404 and not details.get("name"):
            reason = ""
    return ApiError(
        f"{what}: the API server answered {status} {reason}: {message}",
        status=status,
        api_reason=reason,
        retry_after_s=retry_after_s,
    )
