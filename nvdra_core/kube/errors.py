"""What can go wrong on the way to the API server, beyond what ``nvdra_core.errors`` names. Shared inside this package.

``status_error`` maps an HTTP answer to an ApiError; ``TransportError`` is an ApiError with status 0 (no answer).
"""

from __future__ import annotations

import json

from nvdra_core.errors import ApiError


class TransportError(ApiError):
    """No (complete) answer came.

    ``unsent`` says that the server cannot have acted on the request, so that any verb may be sent again. ``stale``
    says that a kept connection turned out to be closed before the first byte of the answer.
    """

    def __init__(self, message: str, *, unsent: bool = False, stale: bool = False) -> None:
        super().__init__(message, status=0)
        self.unsent = unsent
        self.stale = stale


class RelistError(ApiError):
    """The watch cannot go on from its version (410 Gone): list again and watch from the list's version."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=410, api_reason="Expired")


class ClosedError(TransportError):
    """The client or the watch was closed by its owner."""


MESSAGE_LIMIT = 1024
"""Characters of a server's message kept: more would only fill logs and pod events."""


def status_error(what: str, status: int, body: bytes, retry_after_s: float | None) -> ApiError:
    """The error for an answer outside 2xx.

    ``api_reason`` is Status.reason. It is empty when the answer is no Status object or, for 404, when the path and not
    the object is unknown: so ``NotFound`` always means that the object does not exist.
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
