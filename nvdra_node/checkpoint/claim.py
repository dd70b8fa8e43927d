"""A ResourceClaim as a driver sees it: only its own results and configs, decoded and checked.

Built by ``claims`` from the API object, read by ``plan`` of every driver. Pure data (resource.k8s.io/v1, KEP-4381).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, NewType

import msgspec

ClaimUID = NewType("ClaimUID", str)


class ConfigSource(str, Enum):
    """Who wrote an opaque config: an administrator (device class) or a user (claim)."""

    CLASS = "FromClass"
    CLAIM = "FromClaim"


class ClaimRef(msgspec.Struct, frozen=True):
    """What the kubelet sends: enough to find the claim, and to unprepare without it."""

    namespace: str
    name: str
    uid: ClaimUID

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name} (uid {self.uid})"


class OpaqueConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``status.allocation.devices.config`` meant for this driver."""

    source: ConfigSource
    requests: tuple[str, ...]
    """Requests it is for (``req`` or ``req/sub``); empty: all."""
    parameters: Mapping[str, Any]
    """The JSON object as the user wrote it, not yet decoded."""
    index: int
    """Position in the claim's config list, for error messages."""


class AllocationResult(msgspec.Struct, frozen=True, kw_only=True):
    """One device allocated to this claim (``status.allocation.devices.results``)."""

    request: str
    """``req`` or ``req/sub`` (prioritized list)."""
    pool: str
    device: str
    admin_access: bool = False
    share_id: str | None = None
    consumed_capacity: Mapping[str, str] = msgspec.field(default_factory=dict)

    @property
    def main_request(self) -> str:
        """The request without its sub-request: what the kubelet matches containers against."""
        return self.request.partition("/")[0]


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """An allocated claim, reduced to what one driver may act on."""

    ref: ClaimRef
    results: tuple[AllocationResult, ...]
    configs: tuple[OpaqueConfig, ...] = ()
    """Class entries first, then claim entries, in the claim's order: later beats earlier."""
    annotations: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Those of Kubernetes itself (``resource.kubernetes.io/pod-claim-name``): users' own may be of any size."""
