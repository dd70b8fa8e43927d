"""What the API server was asked to write in a span of time, from its audit log: by verb, resource and who."""

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
class Write:
    """One request to write."""

    verb: str
    resource: str
    user: str
    agent: str
    code: int


def writes(log: Path, since_s: float, until_s: float) -> list[Write]:
    """All writes that began in the span (wall clock), less signs of life and reviews of rights."""
    found = []
    for event in _events(log):
        at_s = _seconds(event["requestReceivedTimestamp"])
        target = event.get("objectRef") or {}
        resource = "/".join(filter(None, (target.get("resource"), target.get("subresource"))))
        is_review = target.get("apiGroup") in ("authorization.k8s.io", "authentication.k8s.io")
        if event["verb"] not in WRITES or resource in ALWAYS or is_review:
            continue
        if since_s <= at_s <= until_s:
            user, agent = event["user"]["username"], event.get("userAgent", "").partition(" ")[0]
            code = event.get("responseStatus", {}).get("code", 0)
            found.append(Write(event["verb"], resource, user, agent.partition("/")[0], code))
    return found


def by_kind(found: list[Write]) -> Counter[str]:
    """How many of each verb and resource, with the program that asked."""
    return Counter(f"{write.verb} {write.resource} ({write.agent})" for write in found)


def conflicts(found: list[Write]) -> int:
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
