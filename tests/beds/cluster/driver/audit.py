"""Requests that the API server answered, from its audit log (``audit=True`` of a bed)."""

from __future__ import annotations

import calendar
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AGENT = "nvdra"
"""User-Agent of our programs; the kubelet has the same user and another agent."""
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
ALWAYS = frozenset({"leases", "nodes", "nodes/status"})
"""Resources that are written without any pod: heartbeats."""
REVIEWS = frozenset({"authorization.k8s.io", "authentication.k8s.io"})


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request."""

    verb: str
    resource: str
    """With its subresource; the path where the request is about no resource."""
    group: str = ""
    namespace: str = ""
    name: str = ""
    uri: str
    user: str
    agent: str
    code: int

    @property
    def is_write(self) -> bool:
        """Whether it changes something, or was refused to."""
        return self.verb in WRITES


def writes(log: Path, since_s: float, until_s: float) -> list[Request]:
    """All writes that began in the span (wall clock), less heartbeats and reviews of rights."""
    found = requests(log, since_s, until_s)
    return [one for one in found if one.is_write and one.resource not in ALWAYS]


def requests(log: Path, since_s: float, until_s: float) -> list[Request]:
    """All requests that began in the span (wall clock) and were answered, less reviews of rights."""
    return [
        one
        for event in _events(log)
        if event.get("stage") == "ResponseComplete"
        and since_s <= _seconds(event["requestReceivedTimestamp"]) <= until_s
        and (one := _request(event)).group not in REVIEWS
    ]


def requests_of_node(log: Path, node: str) -> list[Request]:
    """All requests of our programs with a kubelet's credential so far, oldest first; running watches too."""
    found = map(_request, _events(log))
    return [one for one in found if one.agent == AGENT and one.user == f"system:node:{node}"]


def by_kind(found: list[Request]) -> Counter[str]:
    """Number of requests of each verb, resource and agent."""
    return Counter(f"{write.verb} {write.resource} ({write.agent})" for write in found)


def conflicts(found: list[Request]) -> int:
    """Writes that were refused because of a newer version of the object."""
    return sum(write.code == 409 for write in found)


def _request(event: dict[str, Any]) -> Request:
    target = event.get("objectRef") or {}
    uri = event.get("requestURI", "")
    names = (target.get("resource"), target.get("subresource"))
    return Request(
        verb=event["verb"],
        resource="/".join(filter(None, names)) or uri.partition("?")[0],
        group=target.get("apiGroup", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        uri=uri,
        user=event["user"]["username"],
        agent=event.get("userAgent", "").partition(" ")[0].partition("/")[0],
        code=event.get("responseStatus", {}).get("code", 0),
    )


def _events(log: Path) -> Iterator[dict[str, Any]]:
    with log.open() as file:
        for line in file:
            if line.endswith("\n"):  # the last line may be half written
                yield json.loads(line)


def _seconds(text: str) -> float:
    whole, _, fraction = text.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")
