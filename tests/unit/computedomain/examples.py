"""Claims, views and memberships to test with."""

from __future__ import annotations

from typing import Any

from nvdra_node.checkpoint.claim import (
    AllocationResult,
    Claim,
    ClaimRef,
    ClaimUID,
    ConfigSource,
    OpaqueConfig,
)
from nvdra_node.computedomain.model import DomainState, Membership, NodeView

CLUSTER = "2b1c5d6e-0000-4000-8000-000000000007"
VIEW = NodeView(
    fabric_state="Completed", cluster_uuid=CLUSTER, clique_id=f"{CLUSTER}.7", channel_count=2048,
    domains={"A": DomainState(isolation="domain", is_ready=True), "S": DomainState(isolation="channel")},
)  # fmt: skip


def parameters(
    domain: str = "A", kind: str = "ComputeDomainChannelConfig", **more: Any
) -> dict[str, Any]:
    return {"apiVersion": "resource.nvidia.com/v1beta1", "kind": kind, "domainID": domain, **more}


def a_claim(
    uid: str = "c1",
    *configs: dict[str, Any],
    devices: tuple[str, ...] = ("channel-0",),
    shares: tuple[str | None, ...] = (),
) -> Claim:
    """A claim with these configs; with one of domain A when there are none."""
    return Claim(
        ref=ClaimRef("ns", f"claim-{uid}", ClaimUID(uid)),
        results=tuple(
            AllocationResult(request=f"r{i}", pool="node", device=device, share_id=share)
            for i, (device, share) in enumerate(
                zip(devices, shares or [None] * len(devices), strict=True)
            )
        ),
        configs=tuple(
            OpaqueConfig(source=ConfigSource.CLAIM, requests=(), parameters=config, index=i)
            for i, config in enumerate(configs or (parameters(),))
        ),
    )


def joined(domain: str = "A", **change: Any) -> Membership:
    values: dict[str, Any] = {
        "domain_uid": domain,
        "has_fabric": True,
        "channel": 3,
        "channel_count": 2048,
    }
    return Membership(**(values | change))
