"""Conversion of resource.k8s.io objects between v1, v1beta2 and v1beta1. Pure; inputs are never changed.

All other code uses v1. v1beta2 differs from it in ``apiVersion`` alone; v1beta1 keeps a
device's fields under ``basic``, a request's under no ``exactly``, and writes absent node selections as zero values.
Unknown fields pass through. Source: the three API packages, see the conversion functions of Kubernetes.
"""

from __future__ import annotations

from typing import Any

from nvdra_core.errors import ApiError
from nvdra_core.kube.resources import RESOURCE_GROUP, JsonObject

VERSIONS = ("v1", "v1beta2", "v1beta1")
"""Known versions, best first."""

REQUEST_OWN_FIELDS = frozenset({"name", "exactly", "firstAvailable"})


def choose(served: list[str]) -> str:
    """The best known version among those served; raises ApiError (404) when there is none."""
    for version in VERSIONS:
        if version in served:
            return version
    raise ApiError(
        f"the API server serves {RESOURCE_GROUP} in {served or 'no version'}; one of {', '.join(VERSIONS)} is needed "
        "(Kubernetes 1.34 serves v1 by default, older ones must enable the group)",
        status=404,
    )


def slice_from(obj: JsonObject, version: str) -> JsonObject:
    """A ResourceSlice as served in ``version``, as v1."""
    converted = _with_version(obj, "ResourceSlice", "v1")
    if version != "v1beta1" or "spec" not in obj:
        return converted
    spec = dict(obj["spec"])
    if spec.get("nodeName") == "":
        del spec["nodeName"]
    if spec.get("allNodes") is False:
        del spec["allNodes"]
    if "devices" in spec:
        spec["devices"] = [_unwrap(device) for device in spec["devices"] or []]
    return {**converted, "spec": spec}


def slice_to(obj: JsonObject, version: str) -> JsonObject:
    """A v1 ResourceSlice in ``version``."""
    converted = _with_version(obj, "ResourceSlice", version)
    if version != "v1beta1" or "spec" not in obj:
        return converted
    spec = dict(obj["spec"])
    if "devices" in spec:
        spec["devices"] = [_wrap(device) for device in spec["devices"] or []]
    return {**converted, "spec": spec}


def claim_from(obj: JsonObject, version: str) -> JsonObject:
    """A ResourceClaim as served in ``version``, as v1."""
    converted = _with_version(obj, "ResourceClaim", "v1")
    if version != "v1beta1" or "spec" not in obj:
        return converted
    return {**converted, "spec": _nest_requests(obj["spec"])}


def _with_version(obj: JsonObject, kind: str, version: str) -> JsonObject:
    return {**obj, "apiVersion": f"{RESOURCE_GROUP}/{version}", "kind": kind}


def _wrap(device: JsonObject) -> JsonObject:
    fields = {key: value for key, value in device.items() if key != "name"}
    return {"name": device.get("name", ""), "basic": fields}


def _unwrap(device: JsonObject) -> JsonObject:
    own = {key: value for key, value in device.items() if key != "basic"}
    return {**own, **(device.get("basic") or {})}


def _nest_requests(spec: JsonObject) -> JsonObject:
    devices = spec.get("devices")
    if not devices or not devices.get("requests"):
        return spec
    requests = [_nest(request) for request in devices["requests"]]
    return {**spec, "devices": {**devices, "requests": requests}}


def _nest(request: JsonObject) -> JsonObject:
    own = {key: value for key, value in request.items() if key in REQUEST_OWN_FIELDS}
    flat = {
        key: value
        for key, value in request.items()
        if key not in REQUEST_OWN_FIELDS and not _is_zero(value)
    }
    return {**own, "exactly": flat} if flat else own


def _is_zero(value: Any) -> bool:
    # The beta server writes "" for the class name of a request that has alternatives; False is a real adminAccess.
    return value is None or value == "" or value == [] or value == {}
