"""Manifests that users apply, in upstream's published shapes: pods with GPUs, and jobs with a ComputeDomain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.lib import objects
from tests.lib.objects import GPU_DRIVER

Manifest = objects.Object

SHOW_GPUS = "nvidia-smi -L; trap 'exit 0' TERM; sleep 9999 & wait"
SHOW_CHANNELS = "ls -l /dev/nvidia-caps-imex-channels; trap 'exit 0' TERM; sleep 9999 & wait"


def namespace(name: str, *, admin_access: bool = False) -> Manifest:
    """A namespace; with ``admin_access`` its claims may ask for devices in use."""
    labels = {"resource.kubernetes.io/admin-access": "true"} if admin_access else {}
    return objects.obj("Namespace", name, meta={"labels": labels})


def claim_spec(
    *,
    cel: str | None = None,
    count: int | None = None,
    admin: bool = False,
    config: Sequence[Mapping[str, Any]] = (),
) -> Manifest:
    """``spec`` of a claim with one request ``gpu`` of the class gpu.nvidia.com."""
    exactly: Manifest = {"selectors": [{"cel": {"expression": cel}}]} if cel else {}
    if count:
        exactly["count"] = count
    if admin:
        exactly["adminAccess"] = True
    entries = [objects.opaque(dict(one), requests=["gpu"]) for one in config]
    return objects.claim_spec(objects.request("gpu", GPU_DRIVER, **exactly), config=entries)


def template(place: str, name: str, spec: Manifest) -> Manifest:
    """A ResourceClaimTemplate."""
    return objects.template(name, place, spec)


def claim(place: str, name: str, spec: Manifest) -> Manifest:
    """A ResourceClaim."""
    return objects.obj("ResourceClaim", name, place, spec=spec)


def pod(
    place: str,
    name: str,
    *,
    templates: Mapping[str, str] | None = None,
    claims: Mapping[str, str] | None = None,
    containers: Mapping[str, Sequence[str]] | None = None,
    extended: int = 0,
    node: str = "",
    command: str = SHOW_GPUS,
) -> Manifest:
    """A pod. ``templates`` and ``claims``: name in the pod -> object; ``containers``: name -> names in the pod."""
    wanted = containers or {"ctr": [*(templates or {}), *(claims or {})]}
    limits = {"limits": {"nvidia.com/gpu": str(extended)}} if extended else {}
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    return objects.pod(
        name,
        place,
        *(objects.container(c, command, names, **limits) for c, names in wanted.items()),
        claims=claims,
        templates=templates,
        labels={"app": "pod"},
        node=node,
        tolerations=[toleration],
    )


def domain(place: str, name: str, *, nodes: int = 0, mode: str = "Single") -> Manifest:
    """A ComputeDomain whose template is called ``NAME-channel``."""
    return objects.domain(name, place, nodes=nodes, allocationMode=mode)


def worker(place: str, name: str, domain: str = "", *, node: str = "") -> Manifest:
    """A pod of a job, at most one on each node; with ``domain`` it has a channel of that ComputeDomain."""
    one_per_node = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"job": "job"}},
    }
    rule = {"requiredDuringSchedulingIgnoredDuringExecution": [one_per_node]}
    templates = {"channel": f"{domain}-channel"} if domain else {}
    return objects.pod(
        name,
        place,
        objects.container("ctr", SHOW_CHANNELS, templates),
        templates=templates,
        labels={"job": "job"},
        node=node,
        affinity={"podAntiAffinity": rule},
    )
