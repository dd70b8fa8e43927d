"""What the API server was asked by the services of a bed, from its audit log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.beds.cluster.driver.gpu_bed import Bed

AGENT = "nvdra/"
"""How the User-Agent of our programs begins; the kubelet has the same user and another agent."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    user: str
    verb: str
    resource: str
    """With its subresource; the path itself for what is no resource."""
    namespace: str
    name: str
    uri: str
    code: int


def requests(bed: Bed, node: str) -> list[Asked]:
    """All requests of the service on a node so far, oldest first."""
    found = []
    with bed.cluster.layout.audit_log.open() as log:
        for line in log:
            # The last line may be half written.
            if line.endswith("\n") and AGENT in line:
                event = json.loads(line)
                if event["userAgent"].startswith(AGENT):
                    found.append(_asked(event))
    return [asked for asked in found if asked.user == f"system:node:{node}"]


def _asked(event: dict[str, Any]) -> Asked:
    target = event.get("objectRef", {})
    names = (target.get("resource", ""), target.get("subresource", ""))
    return Asked(
        user=event["user"]["username"],
        verb=event["verb"],
        resource="/".join(filter(None, names)) or event["requestURI"].partition("?")[0],
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        uri=event["requestURI"],
        code=event.get("responseStatus", {}).get("code", 0),
    )
