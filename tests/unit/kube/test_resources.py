"""Paths and parameters of requests: no name can leave its place in the path."""

from __future__ import annotations

import pytest

from nvdra_core.errors import ApiError
from nvdra_core.kube.resources import (
    CLAIMS,
    NODES,
    SLICES,
    Preconditions,
    Selector,
    WriteOptions,
    path_segment,
)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (NODES.path(name="n"), "/api/v1/nodes/n"),
        (SLICES.path(), "/apis/resource.k8s.io/v1/resourceslices"),
        (SLICES.at("v1beta1").path(name="s"), "/apis/resource.k8s.io/v1beta1/resourceslices/s"),
        (CLAIMS.path(), "/apis/resource.k8s.io/v1/resourceclaims"),
        (
            CLAIMS.sub("status").path(namespace="ns", name="c"),
            "/apis/resource.k8s.io/v1/namespaces/ns/resourceclaims/c/status",
        ),
        (SLICES.path(namespace="ignored"), "/apis/resource.k8s.io/v1/resourceslices"),
    ],
)
def test_path(path: str, wanted: str) -> None:
    assert path == wanted


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a%2fb", "../x"])
def test_name_that_changes_the_path_is_refused(name: str) -> None:
    with pytest.raises(ApiError):
        path_segment(name)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a-b.c", "a-b.c"),
        ("system:node", "system:node"),
        ("a b?c#d\r\n", "a%20b%3Fc%23d%0D%0A"),
        ("ü", "%C3%BC"),
    ],
)
def test_name_is_quoted(name: str, wanted: str) -> None:
    assert path_segment(name) == wanted


def test_options_become_parameters() -> None:
    assert Selector("a=b", "c=d").parameters() == {"fieldSelector": "a=b", "labelSelector": "c=d"}
    assert Selector().parameters() == {}
    options = WriteOptions(field_manager="m", field_validation="Strict", dry_run=True)
    wanted = {"fieldManager": "m", "fieldValidation": "Strict", "dryRun": "All"}
    assert options.parameters() == wanted


def test_empty_preconditions_are_left_out() -> None:
    assert "preconditions" not in Preconditions().body()
    assert Preconditions(uid="u").body()["preconditions"] == {"uid": "u"}
