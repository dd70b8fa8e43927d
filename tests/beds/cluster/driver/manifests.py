"""Manifests that the end-to-end tests apply: what users of the NVIDIA DRA driver write, in its published shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Manifest = dict[str, Any]

SHOW_GPUS = "nvidia-smi -L; trap 'exit 0' TERM; sleep 9999 & wait"


def namespace(name: str, *, admin_access: bool = False) -> Manifest:
    """A namespace; with ``admin_access`` its claims may ask for devices in use."""
    labels = {"resource.kubernetes.io/admin-access": "true"} if admin_access else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def claim_spec(
    *,
    cel: str | None = None,
    count: int | None = None,
    admin: bool = False,
    config: Sequence[Mapping[str, Any]] = (),
) -> Manifest:
    """``spec`` of a claim with one request ``gpu`` of the class gpu.nvidia.com."""
    exactly: Manifest = {"deviceClassName": "gpu.nvidia.com"}
    if cel:
        exactly["selectors"] = [{"cel": {"expression": cel}}]
    if count:
        exactly["count"] = count
    if admin:
        exactly["adminAccess"] = True
    devices: Manifest = {"requests": [{"name": "gpu", "exactly": exactly}]}
    if config:
        devices["config"] = [
            {
                "requests": ["gpu"],
                "opaque": {"driver": "gpu.nvidia.com", "parameters": dict(parameters)},
            }
            for parameters in config
        ]
    return {"devices": devices}


def template(place: str, name: str, spec: Manifest) -> Manifest:
    """A ResourceClaimTemplate."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"namespace": place, "name": name},
        "spec": {"spec": spec},
    }


def claim(place: str, name: str, spec: Manifest) -> Manifest:
    """A ResourceClaim."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"namespace": place, "name": name},
        "spec": spec,
    }


def pod(
    place: str,
    name: str,
    *,
    templates: Mapping[str, str] | None = None,
    claims: Mapping[str, str] | None = None,
    containers: Mapping[str, Sequence[str]] | None = None,
    extended: int = 0,
    node: str | None = None,
    command: str = SHOW_GPUS,
) -> Manifest:
    """A pod. ``templates`` and ``claims``: name in the pod -> object; ``containers``: name -> names in the pod."""
    sources = [
        *({"name": k, "resourceClaimTemplateName": v} for k, v in (templates or {}).items()),
        *({"name": k, "resourceClaimName": v} for k, v in (claims or {}).items()),
    ]
    wanted = containers or {"ctr": [source["name"] for source in sources]}
    spec: Manifest = {
        "terminationGracePeriodSeconds": 5,
        "containers": [_container(c, names, extended, command) for c, names in wanted.items()],
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }
    if sources:
        spec["resourceClaims"] = sources
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": place, "name": name, "labels": {"app": "pod"}},
        "spec": spec,
    }


def _container(name: str, claims: Sequence[str], extended: int, command: str) -> Manifest:
    resources: Manifest = {}
    if claims:
        resources["claims"] = [{"name": c} for c in claims]
    if extended:
        resources["limits"] = {"nvidia.com/gpu": str(extended)}
    return {
        "name": name,
        "image": "ubuntu:22.04",
        "command": ["bash", "-c"],
        "args": [command],
        "resources": resources,
    }
