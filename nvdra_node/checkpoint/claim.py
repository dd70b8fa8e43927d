"""A ResourceClaim as a driver sees it and as its record keeps it: this driver's results and configs only.

Data only (resource.k8s.io/v1, KEP-4381). Built by ``kubeletplugin.claims.reader``, read by ``plan`` of every driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, NewType

import msgspec

from nvdra_core.openstruct import OpenStruct

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


class AllocationResult(OpenStruct, frozen=True, kw_only=True):
    """One device allocated to this claim (``status.allocation.devices.results``)."""

    request: str
    """``req`` or ``req/sub`` (prioritized list)."""
    pool: str
    device: str
    admin_access: bool = False
    share_id: str | None = msgspec.field(default=None, name="shareID")
    consumed_capacity: Mapping[str, str] = {}

    @property
    def main_request(self) -> str:
        """The request without its sub-request: what the kubelet matches containers against."""
        return self.request.partition("/")[0]


class OpaqueConfig(OpenStruct, frozen=True, kw_only=True):
    """One entry of ``status.allocation.devices.config`` meant for this driver."""

    source: ConfigSource
    requests: tuple[str, ...]
    """Requests it is for (``req`` or ``req/sub``); empty: all."""
    parameters: Mapping[str, Any]
    """The JSON object as the user wrote it, not yet decoded."""
    index: int
    """Position in the claim's config list, for error messages."""


class Allocation(OpenStruct, frozen=True, kw_only=True):
    """What was allocated to a claim, reduced to what one driver may act on."""

    results: tuple[AllocationResult, ...]
    configs: tuple[OpaqueConfig, ...] = ()
    """Class entries first, then claim entries, in the claim's order: later beats earlier."""
    annotations: Mapping[str, str] = {}
    """Those of Kubernetes itself (``resource.kubernetes.io/pod-claim-name``): users' own may be of any size."""

    @property
    def device_names(self) -> tuple[str, ...]:
        """In the order of the results."""
        return tuple(result.device for result in self.results)

    def is_same(self, other: Allocation) -> bool:
        """Whether both are the same allocation.

        Annotations may change within one; a config's index depends on other drivers' configs; a share's capacity is
        covered by its UUID, which is new with each allocation.
        """
        return _identity(self) == _identity(other)


class Claim(Allocation, frozen=True, kw_only=True):
    """An allocated claim."""

    ref: ClaimRef

    @property
    def allocation(self) -> Allocation:
        """What a record keeps beside the claim's identity."""
        return Allocation(results=self.results, configs=self.configs, annotations=self.annotations)


def _identity(allocation: Allocation) -> list[Any]:
    return [
        [(r.request, r.pool, r.device, r.share_id, r.admin_access) for r in allocation.results],
        [(config.source, config.requests, config.parameters) for config in allocation.configs],
    ]
