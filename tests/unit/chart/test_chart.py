"""The chart: what it renders, what it refuses, and that its rights are those the code uses and no more."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nvdra_cluster import cli
from nvdra_cluster.control import released_numbers
from tests.unit.chart import helm

TOP = Path(__file__).resolve().parents[3]
ALL = {
    "fullnameOverride": "x",
    "controller": {"networkPolicy": {"enabled": True}},
    "featureGates": {"MPSSupport": True},
}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("helm")


@pytest.fixture(scope="module")
def objects(home: Path) -> list[Json]:
    return helm.render(home)


def of(objects: list[Json], kind: str, part: str = "") -> list[Json]:
    return [o for o in objects if o["kind"] == kind and part in o["metadata"]["name"]]


def container(objects: list[Json]) -> Json:
    (deployment,) = of(objects, "Deployment")
    found: Json = deployment["spec"]["template"]["spec"]["containers"][0]
    return found


def test_helm_finds_nothing_to_complain_about(home: Path):
    done = helm.run(home, "lint", str(helm.CHART), "--strict", "-n", "nvdra")
    assert "0 chart(s) failed" in done.stdout, done.stdout + done.stderr


class TestController:
    def test_two_replicas_with_leader_election(self, objects):
        (deployment,) = of(objects, "Deployment")
        assert deployment["spec"]["replicas"] == 2
        env = {e["name"]: e.get("value") for e in container(objects)["env"]}
        assert env["LEADER_ELECTION_ENABLED"] == "true"
        assert of(objects, "PodDisruptionBudget")[0]["spec"]["maxUnavailable"] == 1

    def test_satisfies_restricted_pod_security_standard(self, objects):
        pod = of(objects, "Deployment")[0]["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        context = container(objects)["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not {"hostNetwork", "hostPID", "hostIPC", "volumes"} & pod.keys()

    def test_every_variable_is_one_that_program_reads(self, objects):
        names = {entry["name"] for entry in container(objects)["env"]}
        assert names <= {flag.env for flag in cli.FLAGS}
        assert {flag.env for flag in cli.FLAGS} - names == {"KUBECONFIG"}

    def test_program_takes_what_chart_sets(self, objects):
        env = {e["name"]: e.get("value", "pod-0") for e in container(objects)["env"]}
        env["NAMESPACE"] = "nvdra"
        assert cli.settings(cli.read([], env), "").fabric.namespace == "nvdra"

    def test_all_values_reach_program(self, home):
        imex = {"mode": "hostManaged", "isolation": "domain", "maxNodesPerDomain": 72, "ports": "30000-30100", "rackLabel": "example.com/rack"}  # fmt: skip
        found = helm.render(home, {
            "featureGates": {"HostManagedIMEXDaemon": True},
            "resources": {"computeDomains": {"imex": imex}},
            "controller": {"metrics": {"enabled": False}, "leaderElection": {"leaseDuration": "30s"}},
            "logVerbosity": 6,
        })  # fmt: skip
        env = {e["name"]: e.get("value") for e in container(found)["env"]}
        assert env["FEATURE_GATES"] == "HostManagedIMEXDaemon=true,"
        assert (env["IMEX_MODE"], env["MAX_NODES_PER_IMEX_DOMAIN"]) == ("hostManaged", "72")
        assert env["RACK_LABEL"] == "example.com/rack"
        assert (env["IMEX_PORTS"], env["METRICS_PATH"], env["LOG_VERBOSITY"]) == (
            "30000-30100",
            "",
            "6",
        )
        assert env["LEADER_ELECTION_LEASE_DURATION"] == "30s"

    def test_can_be_left_out(self, home):
        found = helm.render(home, {"resources": {"computeDomains": {"enabled": False}}})
        assert of(found, "Deployment") == []
        assert of(found, "ClusterRole", "controller") == []
        assert of(found, "DeviceClass", "compute-domain") == []
        assert of(found, "DeviceClass", "gpu.nvidia.com")


class TestNetwork:
    def policy(self, home: Path, endpoint: str) -> Json:
        values = {"metrics": {"httpEndpoint": endpoint}, "networkPolicy": {"enabled": True, "apiServerPorts": [7443]}}  # fmt: skip
        (found,) = of(helm.render(home, {"controller": values}), "NetworkPolicy")
        spec: Json = found["spec"]
        return spec

    def test_policy_lets_in_endpoint_and_out_api_server(self, home, objects):
        spec = self.policy(home, ":9090")
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert spec["ingress"] == [{"ports": [{"port": 9090, "protocol": "TCP"}]}]
        assert spec["egress"] == [{"ports": [{"port": 7443, "protocol": "TCP"}]}]
        (deployment,) = of(objects, "Deployment")
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert spec["podSelector"]["matchLabels"].items() <= labels.items()
        assert of(objects, "NetworkPolicy") == []

    def test_policy_lets_nothing_in_without_endpoint(self, home):
        assert self.policy(home, "")["ingress"] == []

    @pytest.mark.parametrize("endpoint", [":9090", "0.0.0.0:9090", "[::]:9090"])
    def test_probes_ask_endpoint_whatever_its_host(self, home, endpoint):
        found = helm.render(home, {"controller": {"metrics": {"httpEndpoint": endpoint}}})
        made = container(found)
        assert made["ports"] == [{"name": "http", "containerPort": 9090}]
        assert made["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
        assert made["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}

    def test_there_are_no_probes_without_endpoint(self, home):
        made = container(helm.render(home, {"controller": {"metrics": {"httpEndpoint": ""}}}))
        assert not {"ports", "livenessProbe", "readinessProbe"} & made.keys()


class TestNames:
    def test_releases_share_only_fixed_class_names(self, home):
        first, second = (
            {(o["kind"], o["metadata"]["name"]) for o in helm.render(home, {"fullnameOverride": n, "node": {"serviceAccount": {"name": n}}})}
            for n in ("one", "two")
        )  # fmt: skip
        assert {kind for kind, _ in first & second} == {"DeviceClass"}

    def test_bindings_name_accounts_made(self, home):
        for values in ({}, {"fullnameOverride": "x", "serviceAccount": {"name": "account"}, "namespaceOverride": "place"}):  # fmt: skip
            found = helm.render(home, values)
            accounts = {
                (a["metadata"]["namespace"], a["metadata"]["name"])
                for a in of(found, "ServiceAccount")
            }
            roles = {
                (o["kind"], o["metadata"]["name"])
                for o in found
                if o["kind"] in ("Role", "ClusterRole")
            }
            for binding in of(found, "ClusterRoleBinding") + of(found, "RoleBinding"):
                assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in roles
                for subject in binding["subjects"]:
                    if subject["kind"] == "ServiceAccount":
                        assert (subject["namespace"], subject["name"]) in accounts

    def test_policies_match_account_that_nodes_have(self, home):
        found = helm.render(
            home, {"node": {"serviceAccount": {"name": "my-nodes"}}}, namespace="drivers"
        )
        user = "system:serviceaccount:drivers:my-nodes"
        policies = of(found, "ValidatingAdmissionPolicy")
        anybody = ("-pods", "-secrets")
        assert len(policies) == 7
        for policy in policies:
            assert policy["spec"]["failurePolicy"] == "Fail"
            if policy["metadata"]["name"].endswith(anybody):
                assert "!= 'my-nodes'" in policy["spec"]["validations"][0]["expression"]
                place = policy["spec"]["matchConstraints"]["namespaceSelector"]["matchLabels"]
                assert place == {"kubernetes.io/metadata.name": "drivers"}
                continue
            [condition] = policy["spec"]["matchConditions"]
            assert f"request.userInfo.username == '{user}'" in condition["expression"]
        bound = {b["spec"]["policyName"] for b in of(found, "ValidatingAdmissionPolicyBinding")}
        assert bound == {policy["metadata"]["name"] for policy in policies}


class TestRefused:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"resources": {"computeDomains": {"imex": {"mode": "hostManaged"}}}}, "HostManagedIMEXDaemon"),
            ({"featureGates": {"HostManagedIMEXDaemon": True}, "resources": {"computeDomains": {"imex": {"mode": "hostManaged", "isolation": "channel"}}}}, "isolation=channel"),
            ({"controller": {"leaderElection": {"enabled": False}}}, "two controllers at once"),
            ({"node": {"cliqueLabel": True}, "resources": {"computeDomains": {"imex": {"rackLabel": "nvidia.com/gpu.clique"}}}}, "rackLabel"),
            ({"controller": {"replicas": "2"}}, "replicas"),
            ({"controller": {"replica": 2}}, "replica"),
            ({"resources": {"computeDomains": {"imex": {"isolation": "node"}}}}, "isolation"),
            ({"logVerbosity": 9}, "logVerbosity"),
            ({"serviceAccount": {"create": False}}, "serviceAccount.name"),
        ],
    )  # fmt: skip
    def test_values_that_cannot_work(self, home, values, message):
        done = helm.run(home, "template", "nvdra", str(helm.CHART), "-n", "nvdra", values=values)
        assert done.returncode != 0
        assert message in done.stderr

    def test_namespace_default(self, home):
        done = helm.run(home, "template", "nvdra", str(helm.CHART), "-n", "default")
        assert "allowDefaultNamespace" in done.stderr
        assert helm.render(home, {"allowDefaultNamespace": True}, namespace="default")


class TestValues:
    def leaves(self, values: Json, path: str = "") -> set[str]:
        found: set[str] = set()
        for key, value in values.items():
            here = f"{path}.{key}"
            found |= self.leaves(value, here) if isinstance(value, dict) and value else {here}
        return found

    def test_every_value_has_place_in_schema(self):
        schema = json.loads((helm.CHART / "values.schema.json").read_text())
        values = yaml.safe_load((helm.CHART / "values.yaml").read_text())

        def check(value: Json, part: Json, path: str) -> None:
            if "properties" not in part:
                return
            assert set(value) <= set(part["properties"]), path
            assert part["additionalProperties"] is False, path
            for key, inner in value.items():
                if isinstance(inner, dict):
                    check(inner, part["properties"][key], f"{path}.{key}")

        check(values, schema, "")

    def test_every_value_is_used_and_every_used_one_is_there(self):
        values = yaml.safe_load((helm.CHART / "values.yaml").read_text())
        text = "\n".join(p.read_text() for p in (helm.CHART / "templates").iterdir())
        unused = [
            path for path in self.leaves(values)
            if not re.search(rf"\.{path.rpartition('.')[2]}\b", text)
            and path.split(".")[-2] not in ("podSecurityContext", "securityContext", "seccompProfile", "capabilities", "requests", "limits")
        ]  # fmt: skip
        assert unused == []


class TestRights:
    """What the controller may do, against what its code asks for."""

    def rules(self, objects: list[Json]) -> set[tuple[str, str]]:
        roles = of(objects, "ClusterRole", "nvdra-controller") + of(
            objects, "Role", "nvdra-controller"
        )
        return {
            (resource, verb)
            for role in roles
            for rule in role["rules"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }

    def test_controller_writes_no_node_pod_claim_reads_one_secret(self, objects):
        rules = self.rules(objects)
        assert {r for r, verb in rules if verb not in ("get", "list", "watch")} == {
            "computedomains", "computedomains/status", "fabricnodes", "resourceclaimtemplates",
            "computedomaincliques", "configmaps", "events", "leases", "secrets",
        }  # fmt: skip
        assert not {"pods", "daemonsets", "*"} & {resource for resource, _ in rules}
        assert not any(verb == "*" for _, verb in rules)
        (role,) = of(objects, "Role", "nvdra-controller")
        for rule in role["rules"]:
            if "secrets" in rule["resources"] and rule["verbs"] != ["create"]:
                assert rule["resourceNames"] == ["nvdra-imex-ca"]
            if "configmaps" in rule["resources"] and rule["verbs"] != ["create"]:
                assert rule["resourceNames"] == [released_numbers.NAME]

    def test_it_has_no_right_that_its_settings_make_needless(self, home, objects):
        assert ("computedomains", "get") not in self.rules(objects)
        imex = {"resources": {"computeDomains": {"imex": {"certificates": False}}}}
        assert not {("secrets", v) for v in ("create", "get", "update")} & self.rules(
            helm.render(home, imex)
        )
        hosted = {
            "featureGates": {"HostManagedIMEXDaemon": True},
            "resources": {"computeDomains": {"imex": {"mode": "hostManaged"}}},
        }
        assert not {("secrets", "create"), ("configmaps", "create")} & self.rules(
            helm.render(home, hosted)
        )
        alone = {"controller": {"replicas": 1, "leaderElection": {"enabled": False}}}
        assert ("leases", "create") not in self.rules(helm.render(home, alone))

    def test_single_replica_without_election_is_recreated(self, home):
        """A rolling update would begin the new one before the old one ends: both would give out slots."""
        alone = {"controller": {"replicas": 1, "leaderElection": {"enabled": False}}}
        (deployment,) = of(helm.render(home, alone), "Deployment")
        assert deployment["spec"]["strategy"] == {"type": "Recreate"}

    def test_controller_role_covers_its_watches_and_writes(self, objects):
        rules = self.rules(objects)
        for resource in ("nodes", "resourceslices", "fabricnodes", "computedomains",
                         "resourceclaimtemplates", "computedomaincliques", "resourceclaims"):  # fmt: skip
            assert {(resource, "list"), (resource, "watch")} <= rules
        for resource in ("fabricnodes", "resourceclaimtemplates", "computedomaincliques"):
            assert {(resource, v) for v in ("get", "create", "patch", "delete")} <= rules
        assert {
            ("computedomains", "patch"),
            ("computedomains/status", "patch"),
            ("events", "create"),
            ("events", "patch"),
        } <= rules

    def test_nodes_write_status_of_fabric_nodes_and_no_spec(self, objects):
        rules = [
            rule for role in of(objects, "ClusterRole", "nvdra-node") for rule in role["rules"]
            if rule["apiGroups"] == ["fabric.nvdra.io"]
        ]  # fmt: skip
        writes = {r for rule in rules for r in rule["resources"] if "patch" in rule["verbs"]}
        assert writes == {"fabricnodes/status"}

    def test_nodes_may_label_their_node_only_when_asked_for(self, home, objects):
        def writers(found: list[Json]) -> list[str]:
            return [
                role["metadata"]["name"] for role in of(found, "ClusterRole")
                for rule in role["rules"] if "nodes" in rule["resources"] and "patch" in rule["verbs"]
            ]  # fmt: skip

        assert writers(objects) == []
        found = helm.render(home, {"node": {"cliqueLabel": True}})
        assert writers(found) == ["nvdra-node-label"]
        policies = [p["metadata"]["name"] for p in of(found, "ValidatingAdmissionPolicy")]
        assert "nvdra-node-label" in policies

    def test_kubelets_have_rights_only_when_asked_for(self, home, objects):
        def bindings(found: list[Json]) -> list[str]:
            return [
                b["metadata"]["name"] for b in of(found, "ClusterRoleBinding")
                if "system:nodes" in [s["name"] for s in b["subjects"]]
            ]  # fmt: skip

        assert bindings(objects) == []
        found = helm.render(home, {"node": {"allowKubeletCredential": True}})
        assert bindings(found) == ["nvdra-node-fabric"]


def test_secret_of_ca_has_one_name():
    source = ast.parse(
        (TOP / "nvdra_cluster" / "control" / "certificates" / "signer.py").read_text()
    )
    names = [
        str(node.value.value)
        for node in source.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    ]
    helpers = (helm.CHART / "templates" / "_helpers.tpl").read_text()
    assert any("-}}" + name + "{{-" in helpers for name in names)
