"""Conversion of resource.k8s.io objects between v1, which the fake stores, and the beta versions. Pure."""

from __future__ import annotations

from typing import Any

from nvdra_node.kube import resourceapi
from tests.fakes.apiserver.kinds import RESOURCE_GROUP, Kind

JsonObject = dict[str, Any]


def to_version(obj: JsonObject, kind: Kind, version: str) -> JsonObject:
    """A stored object as ``version``."""
    if kind.group != RESOURCE_GROUP or version == "v1":
        return obj
    if kind.plural == "resourceslices":
        return resourceapi.slice_to(obj, version)
    converted = {**obj, "apiVersion": kind.api_version(version)}
    if kind.plural == "resourceclaims" and version == "v1beta1":
        devices = (obj.get("spec") or {}).get("devices") or {}
        flat = [_flatten(request) for request in devices.get("requests") or ()]
        converted["spec"] = {**(obj.get("spec") or {}), "devices": {**devices, "requests": flat}}
    return converted


def to_stored(obj: JsonObject, kind: Kind, version: str) -> JsonObject:
    """An object received in ``version`` as it is stored."""
    if kind.group != RESOURCE_GROUP or version == "v1":
        return obj
    if kind.plural == "resourceslices":
        return resourceapi.slice_from(obj, version)
    if kind.plural == "resourceclaims":
        return resourceapi.claim_from(obj, version)
    return {**obj, "apiVersion": kind.api_version("v1")}


def _flatten(request: JsonObject) -> JsonObject:
    own = {key: value for key, value in request.items() if key != "exactly"}
    return {**own, **(request.get("exactly") or {})}
