"""Claim <-> JSON inside a record. Pure. Used by ``transaction``.

The shapes follow ResourceClaim.status.allocation.devices, so an operator who opens a record can read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nvdra_node.checkpoint.model import Record
from nvdra_node.kubeletplugin.claim import (
    AllocationResult,
    Claim,
    ClaimRef,
    ClaimUID,
    ConfigSource,
    OpaqueConfig,
)


def encode(claim: Claim) -> dict[str, Any]:
    """What a record keeps of a claim beside its identity."""
    body: dict[str, Any] = {"results": [_encode_result(result) for result in claim.results]}
    if claim.configs:
        body["configs"] = [
            {
                "source": config.source.value,
                "requests": list(config.requests),
                "parameters": config.parameters,
                "index": config.index,
            }
            for config in claim.configs
        ]
    if claim.annotations:
        body["annotations"] = dict(claim.annotations)
    return body


def decode(record: Record) -> Claim:
    """The claim of a record that has one (every record written by this release)."""
    body = record.claim
    return Claim(
        ref=ClaimRef(record.namespace, record.name, ClaimUID(record.uid)),
        results=tuple(_decode_result(result) for result in body["results"]),
        configs=tuple(
            OpaqueConfig(
                source=ConfigSource(config["source"]),
                requests=tuple(config["requests"]),
                parameters=config["parameters"],
                index=config["index"],
            )
            for config in body.get("configs", ())
        ),
        annotations=body.get("annotations", {}),
    )


def _encode_result(result: AllocationResult) -> dict[str, Any]:
    body: dict[str, Any] = {
        "request": result.request,
        "pool": result.pool,
        "device": result.device,
    }
    if result.admin_access:
        body["adminAccess"] = True
    if result.share_id is not None:
        body["shareID"] = result.share_id
    if result.consumed_capacity:
        body["consumedCapacity"] = dict(result.consumed_capacity)
    return body


def _decode_result(body: Mapping[str, Any]) -> AllocationResult:
    return AllocationResult(
        request=body["request"],
        pool=body["pool"],
        device=body["device"],
        admin_access=body.get("adminAccess", False),
        share_id=body.get("shareID"),
        consumed_capacity=body.get("consumedCapacity", {}),
    )
