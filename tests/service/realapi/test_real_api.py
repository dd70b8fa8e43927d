"""The chart and the shipped controller on a real API server: schemas, rights, policies, and a domain's life."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nvdra_core.api.addresses import is_peer_address
from tests.beds.cluster.api import ApiClient, Cluster, CommandError
from tests.beds.cluster.marks import needs_cluster
from tests.lib.waits import wait_until
from tests.unit.chart import helm

pytestmark = needs_cluster(timeout_s=600)

TOP = Path(__file__).resolve().parents[3]
NODE, OTHER = "node-1", "node-2"
CLIQUE = "7b968a6d-c8aa-45e1-9e07-e1e51be99c31.32766"
PATIENCE_S = 90.0
Json = dict[str, Any]

DOMAIN = """
apiVersion: resource.nvidia.com/v1beta1
kind: ComputeDomain
metadata: {name: train, namespace: team}
spec:
  numNodes: 1
  channel:
    resourceClaimTemplate: {name: train-channel}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: worker, namespace: team}
spec:
  terminationGracePeriodSeconds: 0
  resourceClaims: [{name: channel, resourceClaimTemplateName: train-channel}]
  containers:
  - name: c
    image: busybox:1.36
    command: [sleep, "1000"]
    resources: {claims: [{name: channel}]}
"""
"""No plugin prepares its claim: it is scheduled, gets its allocation, and stays as it is."""
SLICE = """
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: %(name)s, ownerReferences: [{apiVersion: v1, kind: Node, name: %(owner)s, uid: %(uid)s}]}
spec:
  driver: %(driver)s
  nodeName: %(node)s
  pool: {name: %(node)s, generation: 1, resourceSliceCount: 1}
  devices:
  - name: channel-0
    attributes: {type: {string: channel}, id: {int: 0}}
"""


class Bed:
    """A cluster with the chart's objects in it, less the Deployment; the controller is a program beside it."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self._clients: dict[str, ApiClient] = {}
        for path in sorted((helm.CHART / "crds").iterdir()):
            cluster.apply(path.read_text())
        cluster.apply(
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: nvdra}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n"
        )
        objects = [
            obj
            for obj in helm.render(directory)
            if obj["kind"] not in ("Deployment", "PodDisruptionBudget")
        ]
        cluster.apply(yaml.safe_dump_all(objects))
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")

    def get(self, *what: str) -> Json | None:
        text = self.cluster.kubectl("get", *what, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def kubeconfig(self, name: str, token: str) -> Path:
        """The administrator's, with a token in the place of the certificate."""
        document = yaml.safe_load(self.cluster.layout.admin_kubeconfig.read_text())
        document["users"][0]["user"] = {"token": token}
        path = self.directory / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(document))
        return path

    def account(self, name: str, node: str = "") -> Path:
        """A kubeconfig of a ServiceAccount of the chart, bound to a node when one is named."""
        bound = ("--bound-object-kind", "Node", "--bound-object-name", node) if node else ()
        token = self.cluster.kubectl("create", "token", name, "-n", "nvdra", *bound)
        return self.kubeconfig(f"{name}-{node}", token.strip())

    def node_client(self, node: str) -> ApiClient:
        """The API with a node's own credential."""
        if node not in self._clients:
            document = yaml.safe_load(self.account("nvdra-node", node).read_text())
            token = document["users"][0]["user"]["token"]
            self._clients[node] = ApiClient(self.cluster.layout, token=token)
        return self._clients[node]

    def as_node(self, *arguments: str, node: str = NODE, input: str | None = None) -> str:
        """kubectl with a node's own credential; what it prints, errors too."""
        config = self.directory / f"nvdra-node-{node}.kubeconfig"
        if not config.exists():
            self.account("nvdra-node", node)
        return self.cluster.kubectl(
            "--kubeconfig", str(config), *arguments, input=input, check=False
        )


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with Cluster.up("controller-api", nodes=[NODE, OTHER]) as cluster:
        made = Bed(cluster, tmp_path_factory.mktemp("bed"))
        wait_until("policies are in force", lambda: policies_work(made))
        yield made


def policies_work(bed: Bed) -> bool:
    """They take a moment; RBAC and schema never refuse this, only a policy does."""
    bed.cluster.apply(fabric_node(OTHER))
    return "writes its own" in report(bed, OTHER)


def fabric_node(name: str) -> str:
    return f"apiVersion: fabric.nvdra.io/v1alpha1\nkind: FabricNode\nmetadata: {{name: {name}}}\n"


def report(bed: Bed, node: str, *, by: str = NODE, **status: Any) -> str:
    """Write a FabricNode's status as a node does: kubectl would read it first, for which nodes have no right."""
    patch = json.dumps({"status": {"heartbeatTime": "2099-01-01T00:00:00Z", **status}})
    path = f"/apis/fabric.nvdra.io/v1alpha1/fabricnodes/{node}/status"
    code, text = bed.node_client(by).send("PATCH", path, patch, "application/merge-patch+json")
    return "patched" if code == 200 else text


def a_slice(bed: Bed, **fields: str) -> str:
    node = bed.get("node", NODE)
    assert node is not None
    known = {"name": f"{NODE}-cd", "node": NODE, "owner": NODE, "uid": node["metadata"]["uid"]}
    return SLICE % {"driver": "compute-domain.nvidia.com", **known, **fields}


class TestSchemas:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d.pop("spec"), "spec: Required"),
            (lambda d: d["spec"].pop("channel"), "spec.channel: Required"),
            (lambda d: d["spec"].update(numNodes=-1), "numNodes"),
            (lambda d: d["spec"]["channel"].update(allocationMode="Some"), "allocationMode"),
        ],
    )
    def test_invalid_domain_is_refused(self, bed: Bed, change, message):
        domain = yaml.safe_load(DOMAIN)
        change(domain)
        with pytest.raises(CommandError, match=message):
            bed.cluster.apply(yaml.safe_dump(domain))

    def test_spec_cannot_be_changed_and_has_upstreams_defaults(self, bed: Bed):
        bed.cluster.apply(DOMAIN.replace("train", "fixed"))
        found = bed.get("computedomain", "fixed", "-n", "team")
        assert found is not None
        assert found["spec"]["channel"]["allocationMode"] == "Single"
        with pytest.raises(CommandError, match=r"A computeDomain\.spec is immutable"):
            bed.cluster.apply(
                DOMAIN.replace("train", "fixed").replace("numNodes: 1", "numNodes: 2")
            )
        bed.cluster.kubectl("delete", "computedomain", "fixed", "-n", "team")

    def test_node_cannot_fill_its_status_without_bound(self, bed: Bed):
        bed.cluster.apply(fabric_node(NODE))
        assert "Too long" in report(bed, NODE, bootID="x" * 65)
        assert "Too many" in report(bed, NODE, addresses=["10.0.0.1"] * 17)
        assert "Invalid value" in report(bed, NODE, cliqueID="../etc")
        assert "Too many" in report(bed, NODE, domains=[{"uid": f"u{n}"} for n in range(257)])
        held = [{"namespace": "team", "name": "c", "uid": f"c{n}"} for n in range(250)]
        domains = [{"uid": f"u{n}", "claims": held} for n in range(5)]
        assert "at most 1024 claims" in report(bed, NODE, domains=domains)
        assert "patched" in report(bed, NODE, domains=domains[:4])

    @pytest.mark.parametrize(
        "address",
        [
            "10.0.0.1\n10.6.6.6\timex-0123456789-0002", "10.0.0.1\n", "tray-b", "10.0.0.1/24", "010.0.0.1",
            "127.0.0.1", "::1", "0.0.0.0", "169.254.1.1", "fe80::1", "224.0.0.1", "255.255.255.255", "::ffff:10.0.0.1",
        ],
    )  # fmt: skip
    def test_unusable_address_is_refused(self, bed: Bed, address: str):
        bed.cluster.apply(fabric_node(NODE))
        assert not is_peer_address(address)
        assert "Invalid value" in report(bed, NODE, addresses=[address])

    def test_addresses_of_other_hosts_are_stored(self, bed: Bed):
        bed.cluster.apply(fabric_node(NODE))
        good = ["10.0.0.1", "100.64.0.1", "fd00::1", "2001:db8::1"]
        assert all(is_peer_address(address) for address in good)
        assert "patched" in report(bed, NODE, addresses=good)

    def test_list_of_slots_takes_no_line_break(self, bed: Bed):
        """Nor from the controller: nodes write this list into a hosts file."""
        node = yaml.safe_load(fabric_node(NODE))
        slot = {"index": 0, "nodeName": NODE, "address": "10.0.0.1\n10.0.0.2"}
        with pytest.raises(CommandError, match=r"address: Invalid value"):
            bed.cluster.apply(yaml.safe_dump({**node, "spec": {"slots": [slot]}}))


class TestNodes:
    """From one node's credential everything that is another's must be refused."""

    def test_writes_its_own_status_and_nobody_elses(self, bed: Bed):
        bed.cluster.apply(fabric_node(NODE))
        assert "patched" in report(bed, NODE)
        assert "writes its own FabricNode only" in report(bed, OTHER)
        assert "patched" in report(bed, OTHER, by=OTHER)

    def test_writes_no_spec_and_makes_no_object(self, bed: Bed):
        bed.cluster.apply(fabric_node(NODE))
        patch = json.dumps({"spec": {"slot": 0}})
        assert "forbidden" in bed.as_node("patch", "fabricnode", NODE, "--type=merge", "-p", patch)
        assert "forbidden" in bed.as_node("create", "-f", "-", input=fabric_node("node-9"))

    def test_writes_slices_of_its_own_only(self, bed: Bed):
        assert "created" in bed.as_node("create", "-f", "-", input=a_slice(bed))
        for bad in (
            a_slice(bed, name="s1", node=OTHER),
            a_slice(bed, name="s2", driver="other.example"),
            a_slice(bed, name="s3", owner=OTHER),
        ):
            assert "forbidden" in bed.as_node("create", "-f", "-", input=bad)
        foreign = ("delete", "resourceslice", f"{NODE}-cd")
        assert "writes ResourceSlices of its own" in bed.as_node(*foreign, node=OTHER)
        assert "deleted" in bed.as_node(*foreign)

    def test_gets_tokens_for_itself_only(self, bed: Bed):
        ask = ("create", "token", "nvdra-node", "-n", "nvdra", "--bound-object-kind", "Node")
        assert "bound to its own Node" in bed.as_node(*ask, "--bound-object-name", OTHER)
        assert "bound to its own Node" in bed.as_node(
            "create", "token", "nvdra-node", "-n", "nvdra"
        )
        assert "forbidden" in bed.as_node("create", "token", "nvdra-controller", "-n", "nvdra")
        uid = (bed.get("node", NODE) or {})["metadata"]["uid"]
        own = bed.as_node(*ask, "--bound-object-name", NODE, "--bound-object-uid", uid)
        assert own.count(".") == 2


@pytest.fixture(scope="module")
def controller(bed: Bed) -> Iterator[None]:
    """The shipped program, with the rights that the chart gives it and no others."""
    for name in (NODE, OTHER):
        bed.cluster.kubectl("delete", "fabricnode", name, "--ignore-not-found")
    argv = [sys.executable, "-m", "nvdra_cluster.cli", "--namespace", "nvdra",
            "--kubeconfig", str(bed.account("nvdra-controller")), "--log-verbosity", "4"]  # fmt: skip
    program = bed.cluster.popen(argv, name="controller", env={"PYTHONPATH": str(TOP)})
    yield
    program.end()
    log = bed.cluster.log("controller")
    assert "forbidden" not in log.lower(), log


def spec_of(bed: Bed, node: str) -> Json:
    """What the controller tells a node."""
    return (bed.get("fabricnode", node) or {}).get("spec") or {}


def join_clique(bed: Bed) -> None:
    """The node publishes channels, and gets a slot in its clique."""
    bed.as_node("create", "-f", "-", input=a_slice(bed))
    node = wait_until("FabricNode", lambda: bed.get("fabricnode", NODE))
    assert node["metadata"]["ownerReferences"][0]["kind"] == "Node"
    assert "patched" in report(
        bed, NODE, bootID="b", cliqueID=CLIQUE, addresses=["10.0.0.1"], fabricState="Completed"
    )
    wait_until("slot", lambda: spec_of(bed, NODE).get("slot") == 0)
    assert spec_of(bed, NODE)["heartbeatSeconds"] == 60


def serve(bed: Bed, uid: str, *, is_ready: bool = True) -> None:
    """The node's one claim is prepared, and its IMEX runs for the domain."""
    (claim,) = (bed.get("resourceclaims", "-n", "team") or {})["items"]
    metadata = claim["metadata"]
    assert metadata["labels"]["resource.nvidia.com/computeDomain"] == uid
    claims = [{"namespace": "team", "name": metadata["name"], "uid": metadata["uid"]}]
    run = {"bootID": "b", "invocationID": "i", "configHash": "h", "slot": 0, "domainUID": uid}
    domains = [{"uid": uid, "ready": is_ready, "claims": claims}]
    report(bed, NODE, imex={"state": "READY", "incarnation": run}, domains=domains)


def come_and_go(bed: Bed, uid: str) -> None:
    """The node is ready a second time; the event of it is counted."""

    def counts() -> list[int]:
        events = (bed.get("events", "-n", "team") or {})["items"]
        return [event["count"] for event in events if event["reason"] == "AllNodesReady"]

    wait_until("counted", lambda: counts() == [1])
    for is_ready in (False, True):
        serve(bed, uid, is_ready=is_ready)
        condition = f"--for=condition=Ready={str(is_ready).lower()}"
        bed.cluster.kubectl("wait", "computedomain/train", "-n", "team", condition, "--timeout=60s")
    wait_until("counted", lambda: counts() == [2])


class TestController:
    def test_domain_is_served_and_deleted(self, bed: Bed, controller: None):
        join_clique(bed)
        bed.cluster.apply(DOMAIN)
        domain = ("computedomain", "train", "-n", "team")
        bed.cluster.kubectl("wait", *domain, "--for=condition=TemplatesReady", "--timeout=60s")
        template = bed.get("resourceclaimtemplate", "train-channel", "-n", "team")
        assert template is not None
        uid = (bed.get(*domain) or {})["metadata"]["uid"]
        assert template["metadata"]["labels"]["resource.nvidia.com/computeDomain"] == uid

        bed.cluster.apply(POD)
        domains = wait_until("domain", lambda: spec_of(bed, NODE).get("domains"))
        assert (domains[0]["uid"], domains[0]["port"], domains[0]["members"]) == (uid, 24001, [0])
        serve(bed, uid)
        bed.cluster.kubectl("wait", *domain, "--for=condition=Ready", "--timeout=60s")
        shown = bed.cluster.kubectl("get", "computedomains", "-n", "team").split()
        assert shown[:5] == ["NAME", "STATUS", "READY", "NODES", "REASON"]
        assert shown[6:11] == ["train", "Ready", "1", "1", "AllNodesReady"]
        assert bed.get("computedomainclique", f"{uid}.{CLIQUE}", "-n", "nvdra")
        come_and_go(bed, uid)

        bed.cluster.kubectl("delete", *domain, "--wait=false")
        bed.cluster.kubectl("wait", *domain, "--for=condition=DeletionBlocked", "--timeout=60s")
        blocked = (bed.get(*domain) or {})["status"]["conditions"][-1]
        assert "(pods worker)" in blocked["message"]
        bed.cluster.kubectl("delete", "pod", "worker", "-n", "team", "--force", "--grace-period=0")
        report(bed, NODE, imex={"state": "STOPPED", "incarnation": None}, domains=[])
        wait_until("deleted", lambda: bed.get(*domain) is None)
        assert bed.get("resourceclaimtemplate", "train-channel", "-n", "team") is None
        wait_until(
            "no clique",
            lambda: bed.get("computedomainclique", f"{uid}.{CLIQUE}", "-n", "nvdra") is None,
        )
        record = bed.get("configmap", "nvdra-imex-released", "-n", "nvdra")
        assert record is not None
        assert list(record["data"]) == ["port-24001"]

    def test_false_report_of_node_holds_no_deletion(self, bed: Bed, controller: None):
        join_clique(bed)
        bed.cluster.apply(DOMAIN.replace("train", "held"))
        domain = ("computedomain", "held", "-n", "team")
        bed.cluster.kubectl("wait", *domain, "--for=condition=Accepted", "--timeout=60s")
        uid = (bed.get(*domain) or {})["metadata"]["uid"]
        claims = [{"namespace": "team", "name": "no-such-claim", "uid": "none"}]
        assert "patched" in report(bed, NODE, domains=[{"uid": uid, "claims": claims}])
        bed.cluster.kubectl("delete", *domain, "--timeout=60s")
        assert bed.get(*domain) is None
        assert not spec_of(bed, NODE).get("domains")
        events = (bed.get("events", "-n", "team") or {})["items"]
        (event,) = (event for event in events if event["reason"] == "ReportIgnored")
        assert f"claim team/no-such-claim on node {NODE}" in event["message"]
        report(bed, NODE, domains=[])

    def test_request_is_answered_with_certificate(self, bed: Bed, controller: None):
        from tests.unit.control.certificates.test_ca import a_request

        bed.as_node("create", "-f", "-", input=a_slice(bed))
        wait_until("FabricNode", lambda: bed.get("fabricnode", NODE))
        report(bed, NODE, bootID="b", cliqueID="u.1", imex={"certificateRequest": a_request()})
        wait_until("certificate", lambda: spec_of(bed, NODE).get("certificate"))
        assert bed.get("secret", "nvdra-imex-ca", "-n", "nvdra")

    def test_events_and_lease_are_written(self, bed: Bed, controller: None):
        lease = wait_until("lease", lambda: bed.get("lease", "nvdra-controller", "-n", "nvdra"))
        assert lease["spec"]["holderIdentity"].startswith("nvdra-controller-")

        def reasons() -> list[str]:
            return [event["reason"] for event in (bed.get("events", "-n", "team") or {})["items"]]

        wait_until("an event", lambda: "AllNodesReady" in reasons())
