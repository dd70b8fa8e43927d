"""Slices and claims between resource.k8s.io v1 and the versions before it: nothing is lost either way."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from nvdra_core.errors import ApiError
from nvdra_node.kube import resourceapi

SLICE_V1: dict[str, Any] = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "ResourceSlice",
    "metadata": {"name": "s", "resourceVersion": "5"},
    "spec": {
        "driver": "gpu.nvidia.com",
        "nodeName": "n",
        "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1},
        "future": {"field": 1},
        "devices": [
            {
                "name": "gpu-0",
                "attributes": {"index": {"int": 0}},
                "capacity": {"memory": {"value": "80Gi"}},
                "taints": [{"key": "k", "effect": "NoSchedule"}],
                "allNodes": False,
            }
        ],
    },
}
SLICE_V1BETA1: dict[str, Any] = {
    "apiVersion": "resource.k8s.io/v1beta1",
    "kind": "ResourceSlice",
    "metadata": {"name": "s", "resourceVersion": "5"},
    "spec": {
        "driver": "gpu.nvidia.com",
        "nodeName": "n",
        "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1},
        "future": {"field": 1},
        "devices": [
            {
                "name": "gpu-0",
                "basic": {
                    "attributes": {"index": {"int": 0}},
                    "capacity": {"memory": {"value": "80Gi"}},
                    "taints": [{"key": "k", "effect": "NoSchedule"}],
                    "allNodes": False,
                },
            }
        ],
    },
}
SUBREQUEST = {"name": "big", "deviceClassName": "c"}
CLAIM_V1: dict[str, Any] = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "ResourceClaim",
    "metadata": {"name": "c"},
    "spec": {
        "devices": {
            "requests": [
                {
                    "name": "a",
                    "exactly": {"deviceClassName": "c", "count": 1, "adminAccess": False},
                },
                {"name": "b", "firstAvailable": [SUBREQUEST]},
            ],
            "config": [{"opaque": {"driver": "d", "parameters": {}}}],
        }
    },
    "status": {"allocation": {"devices": {"results": []}}},
}
CLAIM_V1BETA1: dict[str, Any] = {
    **CLAIM_V1,
    "apiVersion": "resource.k8s.io/v1beta1",
    "spec": {
        "devices": {
            "requests": [
                {"name": "a", "deviceClassName": "c", "count": 1, "adminAccess": False},
                {"name": "b", "deviceClassName": "", "firstAvailable": [SUBREQUEST]},
            ],
            "config": [{"opaque": {"driver": "d", "parameters": {}}}],
        }
    },
}


def at(obj: dict[str, Any], version: str) -> dict[str, Any]:
    return {**obj, "apiVersion": f"resource.k8s.io/{version}"}


def test_v1beta2_differs_from_v1_in_api_version_only() -> None:
    assert resourceapi.slice_to(SLICE_V1, "v1beta2") == at(SLICE_V1, "v1beta2")
    assert resourceapi.slice_from(at(SLICE_V1, "v1beta2"), "v1beta2") == SLICE_V1
    assert resourceapi.claim_from(at(CLAIM_V1, "v1beta2"), "v1beta2") == CLAIM_V1


def test_v1beta1_slice_keeps_device_fields_under_basic() -> None:
    assert resourceapi.slice_to(SLICE_V1, "v1beta1") == SLICE_V1BETA1
    assert resourceapi.slice_from(SLICE_V1BETA1, "v1beta1") == SLICE_V1


@pytest.mark.parametrize(("key", "value"), [("nodeName", ""), ("allNodes", False)])
def test_v1beta1_zero_node_selection_is_absent_in_v1(key: str, value: object) -> None:
    spec = {"driver": "d", "nodeSelector": {}, key: value}
    read = resourceapi.slice_from({"metadata": {}, "spec": spec}, "v1beta1")
    assert read["spec"] == {"driver": "d", "nodeSelector": {}}


def test_v1beta1_claim_request_is_nested() -> None:
    assert resourceapi.claim_from(CLAIM_V1BETA1, "v1beta1") == CLAIM_V1


def test_list_items_without_a_kind_get_one() -> None:
    item = {key: value for key, value in SLICE_V1.items() if key not in {"kind", "apiVersion"}}
    assert resourceapi.slice_from(item, "v1") == SLICE_V1


@pytest.mark.parametrize("version", resourceapi.VERSIONS)
def test_inputs_are_left_alone(version: str) -> None:
    slice_before, claim_before = copy.deepcopy(SLICE_V1), copy.deepcopy(CLAIM_V1)
    resourceapi.slice_to(SLICE_V1, version)
    resourceapi.claim_from(CLAIM_V1, version)
    assert (slice_before, claim_before) == (SLICE_V1, CLAIM_V1)


def test_slice_without_devices_stays_without() -> None:
    spec = {"driver": "d", "sharedCounters": [{"name": "c"}]}
    for version in resourceapi.VERSIONS:
        sent = resourceapi.slice_to({"metadata": {}, "spec": spec}, version)
        assert "devices" not in sent["spec"]


@pytest.mark.parametrize(
    ("served", "chosen"),
    [
        (["v1beta1", "v1"], "v1"),
        (["v1alpha3", "v1beta1", "v1beta2"], "v1beta2"),
        (["v1beta1"], "v1beta1"),
    ],
)
def test_best_served_version_is_chosen(served: list[str], chosen: str) -> None:
    assert resourceapi.choose(served) == chosen


def test_unknown_versions_are_an_error() -> None:
    with pytest.raises(ApiError, match="v2"):
        resourceapi.choose(["v2"])
