"""Which form of an object the fake stores and serves: v1 is stored, the beta versions are converted. Pure."""

from __future__ import annotations

from typing import Any

from nvdra_node.kube import resourceapi
from tests.fakes.apiserver.kinds import RESOURCE_GROUP, Kind


def to_version(obj: dict[str, Any], kind: Kind, version: str) -> dict[str, Any]:
    """A stored object as ``version``."""
    if kind.group != RESOURCE_GROUP or version == "v1":
        return obj
    if kind.plural == "resourceslices":
        return resourceapi.slice_to(obj, version)
    if kind.plural == "resourceclaims":
        return resourceapi.claim_to(obj, version)
    converted = {**obj, "apiVersion": kind.api_version(version)}
    if kind.plural == "resourceclaimtemplates" and version == "v1beta1":
        converted["spec"] = _template(obj, resourceapi.claim_spec_to_v1beta1)
    return converted


def to_stored(obj: dict[str, Any], kind: Kind, version: str) -> dict[str, Any]:
    """An object received in ``version`` as it is stored."""
    if kind.group != RESOURCE_GROUP or version == "v1":
        return obj
    if kind.plural == "resourceslices":
        return resourceapi.slice_from(obj, version)
    if kind.plural == "resourceclaims":
        return resourceapi.claim_from(obj, version)
    converted = {**obj, "apiVersion": kind.api_version("v1")}
    if kind.plural == "resourceclaimtemplates" and version == "v1beta1":
        converted["spec"] = _template(obj, resourceapi.claim_spec_from_v1beta1)
    return converted


def _template(obj: dict[str, Any], convert: Any) -> dict[str, Any]:
    spec = obj.get("spec") or {}
    return {**spec, "spec": convert(spec.get("spec") or {})}
