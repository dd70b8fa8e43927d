"""The chart on a real API server: it takes what is rendered, and helm installs over what is there already."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.beds.cluster import commands
from tests.beds.cluster.api import Cluster
from tests.beds.cluster.marks import needs_cluster
from tests.lib.waits import wait_until
from tests.unit.chart import helm
from tests.unit.chart.test_chart_values import ALL_VALUES, NUMERIC, rendered

pytestmark = needs_cluster(timeout_s=300, has_nodes=False)

Json = dict[str, Any]
CLASSES = "/apis/resource.k8s.io/v1/deviceclasses"
FILES = sorted((helm.CHART / "files").glob("deviceclasses*.yaml"))
NAMES = {obj["metadata"]["name"] for path in FILES for obj in yaml.safe_load_all(path.read_text())}
PLURALS = {"NetworkPolicy": "networkpolicies", "DeviceClass": "deviceclasses"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster.up("chart", nodes=0) as made:
        yield made


@pytest.fixture
def installed(cluster: Cluster, tmp_path: Path) -> Iterator[Helm]:
    made = Helm(cluster, tmp_path)
    yield made
    made.run("uninstall", "nvdra", "--ignore-not-found")
    cluster.kubectl("delete", "deviceclass", *NAMES, "--ignore-not-found")


class Helm:
    """The helm program with an administrator's credential."""

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self.cluster = cluster
        self._home = home

    def run(self, *words: str) -> str:
        """Its output; a failure is one of the test."""
        env = {f"HELM_{name}_HOME": str(self._home) for name in ("CACHE", "CONFIG", "DATA")}
        argv = [*self.cluster.enter, str(helm.program()), *words, "--namespace", "nvdra"]
        environment = commands.base_env({**self.cluster.environment, **env})
        done = subprocess.run(argv, env=environment, text=True, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self) -> str:
        """As the documents say."""
        return self.run("install", "nvdra", str(helm.CHART), "--create-namespace")

    def classes(self) -> dict[str, str]:
        """Each device class, and the release that it is of."""
        owner = "meta.helm.sh/release-name"
        return {
            item["metadata"]["name"]: item["metadata"].get("annotations", {}).get(owner, "")
            for item in self.cluster.client.get(CLASSES)["items"]
        }


def path_of(obj: Json) -> str:
    version, kind = obj["apiVersion"], obj["kind"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    if namespace := obj["metadata"].get("namespace"):
        root += f"/namespaces/{namespace}"
    plural = PLURALS.get(kind) or (kind.lower() + "s").replace("ys", "ies")
    return f"{root}/{plural}"


def test_api_server_takes_what_chart_renders(cluster: Cluster, tmp_path: Path) -> None:
    """Every different object of all the values of the unit test, strictly: no field that it does not know."""
    for name in ("nvdra", *NUMERIC):
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        cluster.kubectl("apply", "-f", "-", input=json.dumps(namespace))
    objects = {
        json.dumps(obj, sort_keys=True): obj
        for values in ALL_VALUES
        for obj in rendered(tmp_path, values)
    }
    kinds = {obj["kind"] for obj in objects.values()}
    assert kinds >= {"Deployment", "NetworkPolicy", "ValidatingAdmissionPolicy", "DeviceClass"}
    refused = []
    for text, obj in objects.items():
        query = "?dryRun=All&fieldValidation=Strict"
        code, said = cluster.client.send("POST", path_of(obj) + query, text)
        if code != 201:
            refused.append((obj["kind"], obj["metadata"]["name"], said))
    assert refused == []


def test_classes_applied_by_hand_do_not_stop_installation(installed: Helm) -> None:
    for path in FILES:
        installed.cluster.apply(path.read_text())
    notes = installed.install()
    assert installed.classes() == dict.fromkeys(NAMES, "")
    assert "were not changed" in notes and all(name in notes for name in NAMES)
    installed.run("upgrade", "nvdra", str(helm.CHART))
    installed.run("uninstall", "nvdra")
    assert installed.classes().keys() >= NAMES


def test_classes_of_release_stay_with_it(installed: Helm) -> None:
    notes = installed.install()
    assert installed.classes() == dict.fromkeys(NAMES, "nvdra")
    assert "were not changed" not in notes
    installed.cluster.kubectl("delete", "deviceclass", "mig.nvidia.com")
    installed.run("upgrade", "nvdra", str(helm.CHART))
    assert installed.classes() == dict.fromkeys(NAMES, "nvdra")
    installed.run("uninstall", "nvdra")
    wait_until("no classes", lambda: not installed.classes(), timeout_s=10)
