"""What the API server was asked in a span of time, from its audit log: by verb, resource and who."""

from __future__ import annotations

import calendar
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
ALWAYS = frozenset({"leases", "nodes", "nodes/status"})
"""What goes on without any pod: signs of life."""


@dataclass(frozen=True)
class Request:
    """One request to the API server."""

    verb: str
    resource: str
    user: str
    agent: str
    code: int

    @property
    def is_write(self) -> bool:
        """Whether it changes something, or would have."""
        return self.verb in WRITES


def writes(log: Path, since_s: float, until_s: float) -> list[Request]:
    """All writes that began in the span (wall clock), less signs of life and reviews of rights."""
    return [
        one
        for one in requests(log, since_s, until_s)
        if one.is_write and one.resource not in ALWAYS
    ]


def requests(log: Path, since_s: float, until_s: float) -> list[Request]:
    """All requests that began in the span (wall clock) and were answered, less reviews of rights."""
    found = []
    for event in _events(log):
        at_s = _seconds(event["requestReceivedTimestamp"])
        target = event.get("objectRef") or {}
        resource = "/".join(filter(None, (target.get("resource"), target.get("subresource"))))
        is_review = target.get("apiGroup") in ("authorization.k8s.io", "authentication.k8s.io")
        if since_s <= at_s <= until_s and not is_review:
            user, agent = event["user"]["username"], event.get("userAgent", "").partition(" ")[0]
            code = event.get("responseStatus", {}).get("code", 0)
            found.append(Request(event["verb"], resource, user, agent.partition("/")[0], code))
    return found


def by_kind(found: list[Request]) -> Counter[str]:
    """How many of each verb and resource, with the program that asked."""
    return Counter(f"{write.verb} {write.resource} ({write.agent})" for write in found)


def conflicts(found: list[Request]) -> int:
    """Writes that were refused because somebody else was quicker, of all programs."""
    return sum(write.code == 409 for write in found)


def _events(log: Path) -> Iterator[dict[str, Any]]:
    with log.open() as file:
        for line in file:
            if line.endswith("\n"):  # the last one may be half written
                event = json.loads(line)
                if event.get("stage") == "ResponseComplete":
                    yield event


def _seconds(text: str) -> float:
    whole, _, fraction = text.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")
