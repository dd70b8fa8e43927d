"""The chart over many values: what it renders is YAML without surprises, and the controller accepts the settings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nvdra_cluster import cli
from nvdra_core.gates import Gate
from tests.unit.chart import helm

Json = dict[str, Any]
NUMERIC = ("123", "1e3", "0x10", "true", "null", "on")
"""Names that YAML takes for something else where they are not quoted."""


def combined(*parts: Json) -> Json:
    """Values laid over each other."""
    found: Json = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(found.get(key), dict)
            found[key] = combined(found[key], value) if both else value
    return found


def controller(**values: Any) -> Json:
    return {"controller": values}


CHOICES: tuple[tuple[Json, ...], ...] = (
    tuple(controller(metrics={"httpEndpoint": e}) for e in (":8080", "", "0.0.0.0:9090", "[::]:9")),
    tuple(controller(networkPolicy={"enabled": on}) for on in (True, False)),
    ({}, controller(replicas=1, leaderElection={"enabled": False}), controller(replicas=0)),
    (
        {},
        {"resources": {"computeDomains": {"enabled": False}}},
        {
            "resources": {
                "computeDomains": {"imex": {"isolation": "channel", "certificates": False}}
            }
        },
        {
            "featureGates": {"HostManagedIMEXDaemon": True},
            "resources": {"computeDomains": {"imex": {"mode": "hostManaged"}}},
        },
    ),
)
ODD: tuple[Json, ...] = (
    *({"nameOverride": name} for name in NUMERIC),
    *({"fullnameOverride": name} for name in NUMERIC),
    *({"namespaceOverride": name} for name in NUMERIC),
    *({"serviceAccount": {"name": name}} for name in NUMERIC),
    *({"node": {"serviceAccount": {"name": name}}} for name in NUMERIC),
    {"fullnameOverride": "a" * 39 + ".b" + "c" * 30, "nameOverride": "n" * 80},
    {"fullnameOverride": "a" * 51 + ".-." + "c" * 30},
    {"serviceAccount": {"create": False, "name": "there"}, "node": {"serviceAccount": {"create": False}}},
    {"selectorLabelsOverride": {"app": "123", "on": "true"}},
    {"imagePullSecrets": [{"name": "123"}], "image": {"repository": "1", "tag": "20"}},
    {"logVerbosity": 6, "logFormat": "json"},
    {"node": {"allowKubeletCredential": True, "tokenAudiences": [], "tokenMaxHours": 720}},
    controller(priorityClassName="", podAnnotations={"a": "1", "b": "true"}, nodeSelector={"a": "1"}),
    controller(podSecurityContext={}, tolerations=[], affinity={"podAffinity": {}}),
    controller(containers={"computeDomain": {"env": [{"name": "A", "value": "1"}], "resources": {}, "securityContext": {}}}),
    controller(podDisruptionBudget={"enabled": False}, metrics={"enabled": False}),
    controller(leaderElection={"leaseDuration": "1.5m", "renewDeadline": "10s", "retryPeriod": "500ms"}),
)  # fmt: skip
ALL_VALUES = [
    *(combined(*some) for some in itertools.product(*CHOICES)),
    *(combined(controller(networkPolicy={"enabled": True}), odd) for odd in ODD),
]


class Strict(yaml.SafeLoader):
    """Refuses what Kubernetes' own decoder refuses, too: a key that is there twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A mapping of different keys."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key is there twice: {keys}"
        return super().construct_mapping(node, deep=deep)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("helm")


def rendered(home: Path, values: Json, release: str = "nvdra", namespace: str = "nvdra") -> list[Json]:  # fmt: skip
    words = ["template", release, str(helm.CHART), "-n", namespace, "--kube-version"]
    done = helm.run(home, *words, helm.KUBERNETES, values=values)
    assert done.returncode == 0, done.stderr
    return [obj for obj in yaml.load_all(done.stdout, Strict) if obj]  # a SafeLoader


def texts(found: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar of an object that Kubernetes has as a string, with its key."""
    if isinstance(found, dict):
        for name, value in found.items():
            assert isinstance(name, str), f"key {name!r}"
            inner = (
                "string"
                if key in ("labels", "annotations", "matchLabels", "nodeSelector")
                else name
            )
            yield from texts(value, inner)
    elif isinstance(found, list):
        for value in found:
            yield from texts(value, key)
    elif key in STRINGS:
        yield key, found


STRINGS = frozenset({
    "string", "name", "namespace", "serviceAccountName", "priorityClassName", "image", "value", "policyName",
    "resourceNames", "expression", "message", "kind", "apiVersion", "path", "type",
})  # fmt: skip
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?")


def check(objects: list[Json]) -> None:
    """What an API server would refuse."""
    assert len({(o["kind"], o["metadata"]["name"]) for o in objects}) == len(objects)
    for obj in objects:
        assert obj["apiVersion"] and _NAME.fullmatch(obj["metadata"]["name"]), obj["metadata"]
        for key, value in texts(obj):
            assert isinstance(value, str), (
                f"{obj['kind']} {obj['metadata']['name']}: {key} is {value!r}"
            )
        for value in (obj["metadata"].get("labels") or {}).values():
            assert _LABEL.fullmatch(value), value
    for policy in (o for o in objects if o["kind"] == "NetworkPolicy"):
        assert isinstance(policy["spec"]["ingress"], list)
    environment = [
        entry
        for obj in objects
        if obj["kind"] == "Deployment"
        for entry in obj["spec"]["template"]["spec"]["containers"][0]["env"]
    ]
    assert len({entry["name"] for entry in environment}) == len(environment)
    if environment:
        given = {entry["name"]: entry.get("value", "it") for entry in environment}
        known = {flag.env for flag in cli.FLAGS}
        cli.settings(cli.read([], {k: v for k, v in given.items() if k in known}), "")


@pytest.mark.parametrize("values", ALL_VALUES, ids=[str(n) for n in range(len(ALL_VALUES))])
def test_values_render_to_objects_whole(home: Path, values: Json):
    check(rendered(home, values))


@pytest.mark.parametrize("name", [*NUMERIC, "my.release", "r" * 53])
def test_any_release_and_namespace_can_be_installed(home: Path, name: str):
    check(rendered(home, {}, release=name, namespace=name.replace(".", "-")))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (controller(metrics={"httpEndpoint": "127.0.0.1:8080"}), "probes"),
        (controller(metrics={"httpEndpoint": "[fd00::1]:8080"}), "probes"),
        (controller(metrics={"httpEndpoint": ":70000"}), "port from 1 to 65535"),
        (controller(metrics={"httpEndpoint": ":0"}), "port from 1 to 65535"),
        (controller(leaderElection={"leaseDuration": "10s"}), "must be above"),
        (controller(leaderElection={"retryPeriod": "6s"}), "must be above"),
        (controller(containers={"computeDomain": {"env": [{"name": "LOG_FORMAT", "value": "x"}]}}), "LOG_FORMAT"),
        ({"resources": {"computeDomains": {"imex": {"ports": "80-90"}}}}, "1024"),
        ({"resources": {"computeDomains": {"imex": {"ports": "30000-20000"}}}}, "FIRST <= LAST"),
        ({"resources": {"computeDomains": {"imex": {"ports": "30000-70000"}}}}, "65535"),
        ({"featureGates": {"NoSuchGate": True}}, "NoSuchGate"),
        ({"selectorLabelsOverride": {"app.kubernetes.io/component": "x"}}, "app.kubernetes.io/component"),
        ({"fullnameOverride": "A_b"}, "fullnameOverride"),
        ({"node": {"serviceAccount": {"name": "a' || 'b"}}}, "serviceAccount"),
        ({"node": {"tokenAudiences": ["a' || 'b"]}}, "tokenAudiences"),
        ({"node": {"tokenMaxHours": 721}}, "tokenMaxHours"),
        ({"serviceAccount": {"name": "nvdra-node"}}, "are both nvdra-node"),
    ],
)  # fmt: skip
def test_values_that_cannot_work_are_refused_by_name(home: Path, values: Json, message: str):
    done = helm.run(home, "template", "nvdra", str(helm.CHART), "-n", "nvdra", values=values)
    assert done.returncode != 0
    assert message in done.stderr, done.stderr


def test_gates_of_schema_are_those_of_product():
    import json

    schema = json.loads((helm.CHART / "values.schema.json").read_text())
    names = schema["properties"]["featureGates"]["propertyNames"]["enum"]
    assert names == sorted(gate.value for gate in Gate)


def test_names_refused_in_env_are_those_chart_sets(home: Path):
    [deployment] = [o for o in rendered(home, {}) if o["kind"] == "Deployment"]
    names = [e["name"] for e in deployment["spec"]["template"]["spec"]["containers"][0]["env"]]
    helpers = (helm.CHART / "templates" / "_helpers.tpl").read_text()
    names_in_helper = (
        helpers.partition('define "nvdra.environment" -}}')[2].partition("{{-")[0].split()
    )
    assert sorted(names_in_helper) == sorted(names)
