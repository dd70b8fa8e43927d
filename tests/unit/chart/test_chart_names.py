"""Names, labels, image and accounts of the chart follow their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.chart import helm

Json = dict[str, Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("helm")


def deployment(objects: list[Json]) -> Json:
    (found,) = [o for o in objects if o["kind"] == "Deployment"]
    return found


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "nvdra-controller"),
        ({"nameOverride": "gpu"}, "nvdra-gpu-controller"),
        ({"fullnameOverride": "drivers"}, "drivers-controller"),
    ],
)
def test_names_follow_their_overrides(home: Path, values: Json, name: str):
    assert deployment(helm.render(home, values))["metadata"]["name"] == name


def test_namespace_override_places_every_namespaced_object(home: Path):
    objects = helm.render(home, {"namespaceOverride": "place"})
    assert {o["metadata"].get("namespace", "place") for o in objects} == {"place"}
    assert deployment(objects)["metadata"]["namespace"] == "place"


def test_selector_labels_override_selects_pods(home: Path):
    spec = deployment(helm.render(home, {"selectorLabelsOverride": {"team": "fabric"}}))["spec"]
    assert spec["selector"]["matchLabels"]["team"] == "fabric"
    assert "app.kubernetes.io/name" not in spec["selector"]["matchLabels"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_image_and_pull_secrets_follow_their_values(home: Path):
    values = {
        "image": {"repository": "example.com/nvdra", "tag": "v9", "pullPolicy": "Never"},
        "imagePullSecrets": [{"name": "pull"}],
    }
    pod = deployment(helm.render(home, values))["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    (container,) = pod["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("example.com/nvdra:v9", "Never")


def test_account_that_exists_already_is_used_not_made(home: Path):
    objects = helm.render(home, {"serviceAccount": {"create": False, "name": "mine"}})
    pod = deployment(objects)["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "mine"
    accounts = {o["metadata"]["name"] for o in objects if o["kind"] == "ServiceAccount"}
    assert "mine" not in accounts
