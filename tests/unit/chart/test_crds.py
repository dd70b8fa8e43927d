"""The CRDs of the chart are those that the types make, and keep what upstream's promise."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

TOP = Path(__file__).resolve().parents[3]
CRDS = TOP / "charts" / "nvdra" / "crds"


def generator() -> ModuleType:
    path = TOP / "charts" / "generate_crds.py"
    spec = importlib.util.spec_from_file_location("generate_crds", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CRDS / name).read_text())
    return found


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = load(name)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


DOMAINS = "resource.nvidia.com_computedomains.yaml"
CLIQUES = "resource.nvidia.com_computedomaincliques.yaml"
NODES = "fabric.nvdra.io_fabricnodes.yaml"


def test_files_are_up_to_date():
    made = generator()
    wanted = {name: made.text_of(one) for name, one in made.all_crds().items()}
    assert {path.name: path.read_text() for path in CRDS.iterdir()} == wanted


def test_domain_needs_spec_that_cannot_change():
    found = schema(DOMAINS)
    assert found["required"] == ["spec"]
    assert found["properties"]["spec"]["x-kubernetes-validations"] == [
        {"rule": "self == oldSelf", "message": "A computeDomain.spec is immutable"}
    ]


def test_upstream_domain_fields_have_upstream_defaults_and_enums():
    properties = schema(DOMAINS)["properties"]
    spec, status = properties["spec"]["properties"], properties["status"]["properties"]
    assert (spec["numNodes"]["minimum"], spec["numNodes"]["default"]) == (0, 0)
    mode = spec["channel"]["properties"]["allocationMode"]
    assert (mode["enum"], mode["default"]) == (["All", "Single"], "Single")
    assert (status["status"]["enum"], status["status"]["default"]) == (
        ["NotReady", "Ready"],
        "NotReady",
    )
    nodes = status["nodes"]
    assert nodes["x-kubernetes-list-map-keys"] == ["name"]
    assert nodes["items"]["required"] == ["cliqueID", "ipAddress", "name"]


def test_clique_has_neither_spec_nor_status_as_upstreams():
    assert "subresources" not in load(CLIQUES)["spec"]["versions"][0]
    daemons = schema(CLIQUES)["properties"]["daemons"]
    assert daemons["x-kubernetes-list-map-keys"] == ["nodeName"]
    assert daemons["items"]["required"] == ["cliqueID", "ipAddress", "nodeName"]


@pytest.mark.parametrize("name", [DOMAINS, CLIQUES, NODES])
def test_kubectl_shows_more_than_name_and_age(name):
    columns = [c["name"] for c in load(name)["spec"]["versions"][0]["additionalPrinterColumns"]]
    assert len(columns) > 2
    assert columns[-1] == "Age"


def test_everything_a_node_writes_is_bounded():
    """A node that was taken over must not fill etcd, or other people's screens."""
    unbound: list[str] = []

    def visit(found: dict[str, Any], path: str) -> None:
        if found["type"] == "string" and not found.keys() & {"maxLength", "enum", "pattern"}:
            unbound.append(path)
        if found["type"] == "array":
            if "maxItems" not in found:
                unbound.append(path)
            visit(found["items"], f"{path}[]")
        for name, inner in found.get("properties", {}).items():
            visit(inner, f"{path}.{name}")

    visit(schema(NODES)["properties"]["status"], "status")
    assert unbound == []
