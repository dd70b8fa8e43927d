"""Claim <-> JSON inside a record, and whether the two agree. Pure. Used by ``transaction``.

The shapes follow ResourceClaim.status.allocation.devices, so an operator who opens a record can read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nvdra_node.checkpoint.claim import (
    AllocationResult,
    Claim,
    ClaimRef,
    ClaimUID,
    ConfigSource,
    OpaqueConfig,
)
from nvdra_node.checkpoint.model import Record


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


def is_of(record: Record, claim: Claim) -> bool:
    """Whether a record is of the allocation that the claim has now. One that does not say what it is of is believed.

    Not compared: annotations, which may change, and where among other drivers' configs ours stand. A share's UUID is
    new with each allocation, so its capacity is not looked at.
    """
    if not record.claim:
        return True
    old = decode(record)
    return _results(old) == _results(claim) and _configs(old) == _configs(claim)


def names(claim: Claim) -> str:
    """Its devices, for people."""
    return ", ".join(result.device for result in claim.results)


def _results(claim: Claim) -> list[tuple[Any, ...]]:
    return [(r.request, r.pool, r.device, r.share_id, r.admin_access) for r in claim.results]


def _configs(claim: Claim) -> list[tuple[Any, ...]]:
    return [(config.source, config.requests, config.parameters) for config in claim.configs]


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
