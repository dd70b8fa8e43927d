"""What users write for a job over several nodes: a ComputeDomain, and pods that take its channel."""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]

SHOW_CHANNELS = "ls -l /dev/nvidia-caps-imex-channels; trap 'exit 0' TERM; sleep 9999 & wait"


def domain(place: str, name: str, *, nodes: int = 0, mode: str = "Single") -> Manifest:
    """A ComputeDomain whose template is called ``NAME-channel``."""
    channel = {"resourceClaimTemplate": {"name": f"{name}-channel"}, "allocationMode": mode}
    return {
        "apiVersion": "resource.nvidia.com/v1beta1",
        "kind": "ComputeDomain",
        "metadata": {"namespace": place, "name": name},
        "spec": {"numNodes": nodes, "channel": channel},
    }


def worker(place: str, name: str, domain: str = "", *, node: str = "") -> Manifest:
    """A pod of a job, one on a node; with ``domain`` it has that one's channel."""
    container: Manifest = {
        "name": "ctr",
        "image": "ubuntu:22.04",
        "command": ["bash", "-c"],
        "args": [SHOW_CHANNELS],
    }
    alone = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"job": "job"}},
    }
    spec: Manifest = {
        "terminationGracePeriodSeconds": 5,
        "containers": [container],
        "affinity": {
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [alone]}
        },
    }
    if domain:
        container["resources"] = {"claims": [{"name": "channel"}]}
        spec["resourceClaims"] = [
            {"name": "channel", "resourceClaimTemplateName": f"{domain}-channel"}
        ]
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": place, "name": name, "labels": {"job": "job"}},
        "spec": spec,
    }
