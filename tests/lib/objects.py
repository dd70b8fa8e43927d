"""Builders of the Kubernetes objects that tests create: each returns what a user, the scheduler or a node would write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Object = dict[str, Any]

GPU_DRIVER = "gpu.nvidia.com"
DOMAIN_DRIVER = "compute-domain.nvidia.com"
API_VERSIONS = {
    **dict.fromkeys(("Event", "Namespace", "Node", "Pod"), "v1"),
    **dict.fromkeys(
        ("DeviceClass", "ResourceClaim", "ResourceClaimTemplate", "ResourceSlice"),
        "resource.k8s.io/v1",
    ),
    "ComputeDomain": "resource.nvidia.com/v1beta1",
    "FabricNode": "fabric.nvdra.io/v1alpha1",
}


def obj(
    kind: str, name: str, namespace: str = "", *, meta: Object | None = None, **fields: Any
) -> Object:
    """Any object; ``meta`` adds to its metadata."""
    metadata = {"name": name, **({"namespace": namespace} if namespace else {}), **(meta or {})}
    return {"apiVersion": API_VERSIONS[kind], "kind": kind, "metadata": metadata, **fields}


def reference(kind: str, name: str, **fields: Any) -> Object:
    """A reference to an object: owner, involved object, bound object."""
    return {"apiVersion": API_VERSIONS[kind], "kind": kind, "name": name, **fields}


def device(name: str = "gpu-0", **fields: Any) -> Object:
    """A device of a slice."""
    return {"name": name, "attributes": {"index": {"int": 0}}, **fields}


def channel() -> Object:
    """The device that compute domains allocate."""
    return {"name": "channel-0", "attributes": {"type": {"string": "channel"}, "id": {"int": 0}}}


def resource_slice(
    name: str,
    node: str,
    devices: Iterable[Object] | None = None,
    *,
    owner_uid: str = "",
    **spec: Any,
) -> Object:
    """A slice that ``node`` published; with ``owner_uid`` owned by the Node."""
    owner = reference("Node", node, uid=owner_uid, controller=True)
    body = {
        "driver": GPU_DRIVER,
        "nodeName": node,
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
        "devices": [device()] if devices is None else list(devices),
        **spec,
    }
    meta = {"ownerReferences": [owner]} if owner_uid else {}
    return obj("ResourceSlice", name, meta=meta, spec=body)


def request(name: str = "gpu", device_class: str = GPU_DRIVER, **exactly: Any) -> Object:
    """A request of a claim for exactly one device, or as ``exactly`` says."""
    return {"name": name, "exactly": {"deviceClassName": device_class, **exactly}}


def opaque(parameters: Any, driver: str = GPU_DRIVER, **fields: Any) -> Object:
    """A configuration entry of a claim or of its allocation."""
    return {**fields, "opaque": {"driver": driver, "parameters": parameters}}


def claim_spec(*requests: Object, config: Sequence[Object] = ()) -> Object:
    """``spec`` of a claim."""
    devices: Object = {"requests": list(requests)}
    return {"devices": devices | ({"config": list(config)} if config else {})}


def claim(
    name: str, namespace: str, *requests: Object, meta: Object | None = None, **fields: Any
) -> Object:
    """A ResourceClaim."""
    return obj("ResourceClaim", name, namespace, meta=meta, spec=claim_spec(*requests), **fields)


def template(name: str, namespace: str, spec: Object) -> Object:
    """A ResourceClaimTemplate of claims with that ``spec``."""
    return obj("ResourceClaimTemplate", name, namespace, spec={"spec": spec})


def result(
    device: str, pool: str, request: str = "gpu", driver: str = GPU_DRIVER, **fields: Any
) -> Object:
    """An allocated device."""
    return {"request": request, "driver": driver, "pool": pool, "device": device, **fields}


def node_selector(node: str) -> Object:
    """The selector that the scheduler writes for devices of one node."""
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    return {"nodeSelectorTerms": [{"matchFields": [field]}]}


def allocation(*results: Object, node: str, config: Sequence[Object] = ()) -> Object:
    """``status.allocation`` of a claim, whose devices are on ``node``."""
    devices: Object = {"results": list(results)}
    if config:
        devices["config"] = list(config)
    return {"devices": devices, "nodeSelector": node_selector(node)}


def reserved_for(pod: str, uid: str = "") -> list[Object]:
    """``status.reservedFor`` of a claim with one consumer."""
    return [{"resource": "pods", "name": pod, "uid": uid or pod}]


def domain(name: str, namespace: str, *, nodes: int = 0, **channel: Any) -> Object:
    """A ComputeDomain whose template is called ``NAME-channel``."""
    made = {"resourceClaimTemplate": {"name": f"{name}-channel"}, **channel}
    return obj("ComputeDomain", name, namespace, spec={"numNodes": nodes, "channel": made})


def container(name: str, script: str, claims: Iterable[str] = (), **resources: Any) -> Object:
    """A container that runs a shell script."""
    if named := [{"name": claim} for claim in claims]:
        resources["claims"] = named
    return {
        "name": name,
        "image": "ubuntu:22.04",
        "command": ["bash", "-c"],
        "args": [script],
        "resources": resources,
    }


def pod(
    name: str,
    namespace: str,
    *containers: Object,
    claims: Mapping[str, str] | None = None,
    templates: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    node: str = "",
    **spec: Any,
) -> Object:
    """A pod. ``claims`` and ``templates``: name within the pod -> name of the object."""
    sources = [
        *({"name": k, "resourceClaimTemplateName": v} for k, v in (templates or {}).items()),
        *({"name": k, "resourceClaimName": v} for k, v in (claims or {}).items()),
    ]
    body: Object = {"terminationGracePeriodSeconds": 5, "containers": list(containers), **spec}
    if sources:
        body["resourceClaims"] = sources
    if node:
        body["nodeSelector"] = {"kubernetes.io/hostname": node}
    return obj("Pod", name, namespace, meta={"labels": dict(labels or {})}, spec=body)
