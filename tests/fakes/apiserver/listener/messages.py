"""Requests and answers of the fake, between its HTTP server and its API. Plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.fakes.apiserver.auth import User


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request; header names are lower case. ``peer`` is the user of a verified client certificate."""

    method: str
    target: str
    headers: dict[bytes, bytes]
    body: bytes
    peer: User | None = None


@dataclass(slots=True)
class Reply:
    """One answer. With ``stream`` it is chunked: lines, or None when there is nothing to say for the moment."""

    code: int
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    stream: Iterator[bytes | None] | None = None
    content_type: str = "application/json"
