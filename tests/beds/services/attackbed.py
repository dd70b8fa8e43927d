"""A control plane with the chart's rights and policies, two Nodes, and what is theirs; no node runs and none is needed.

``Attack`` and ``Request`` are the form of the cases in ``attacks`` and ``sliceattacks``. ``World`` has the objects and
one client for each credential that a thief can find on node-1: the token of the node's ServiceAccount, the kubelet's
certificate, and a token that is bound to no Node.
"""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.beds.cluster.api import ApiClient, Cluster
from tests.beds.cluster.artifacts.programs import NEWEST
from tests.lib import objects
from tests.lib.objects import obj, reference
from tests.lib.pki import Identity, StoredAuthority
from tests.lib.waits import wait_until
from tests.unit.chart import helm

Json = dict[str, Any]

OWN, OTHER = "node-1", "node-2"
GPU, CHANNEL, NIC = "gpu.nvidia.com", "compute-domain.nvidia.com", "nic.example"
PLACE, TEAM, ACCOUNT = "nvdra", "team", "nvdra-node"
RESOURCE_API = "/apis/resource.k8s.io"
VERSIONS = ("v1", "v1beta2", "v1beta1")
FABRIC_NODES = "/apis/fabric.nvdra.io/v1alpha1/fabricnodes"
DOMAINS = "/apis/resource.nvidia.com/v1beta1"
TOKENS = f"/api/v1/namespaces/{PLACE}/serviceaccounts/{ACCOUNT}/token"
NIC_MANAGER, OTHER_MANAGER = "nic-driver", "other-node"

JSON, JSON_PATCH, MERGE, STRATEGIC, APPLY = (
    "application/json", "application/json-patch+json", "application/merge-patch+json",
    "application/strategic-merge-patch+json", "application/apply-patch+yaml",
)  # fmt: skip
BUSY, BUSY_TRIES = 429, 20
TOKEN, KUBELET, UNBOUND, ADMIN = "token", "kubelet", "unbound", "admin"
POLICY, RBAC, NODE_RULES = "policy", "RBAC", "node rules"
SIGNS = {
    POLICY: ("ValidatingAdmissionPolicy",),
    RBAC: ("cannot ", "forbidden: User"),
    NODE_RULES: ("cannot ", "is not allowed", "can only", "may only", "node requested", "not permitted", "node restriction"),
}  # fmt: skip
"""What a refusal by each of them has in its text, one of the words."""


@dataclass(frozen=True)
class Request:
    """One request to the API server."""

    method: str
    path: str
    body: Any = None
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


def fixed(
    method: str, path: str, body: Any = None, content_type: str = JSON, **headers: str
) -> Callable[[World], Request]:
    """A request that is the same in every world."""
    request = Request(method, path, body, content_type, headers)
    return lambda _: request


@dataclass(frozen=True)
class Attack:
    """One request that must be answered 403."""

    row: str
    """What it does, as the table of security.md has it."""
    form: str
    """Verb, and kind of patch."""
    version: str
    by: str
    """The credential."""
    held_by: str
    """Who refuses: POLICY, RBAC or NODE_RULES."""
    make: Callable[[World], Request]
    is_valid: bool = True
    """Whether an administrator's same request would be accepted: the refusal is due to who asks."""

    @property
    def id(self) -> str:
        """Of the test case."""
        words = f"{self.row}-{self.form}-{self.version}-{self.by}"
        return "".join(c if c.isalnum() or c in "-." else "_" for c in words.replace("`", ""))


class World:
    """See the module."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self._admin = ApiClient(cluster.layout)
        self._clients = {ADMIN: self._admin}
        self.uids: dict[str, str] = {}
        self._names = itertools.count(1)

    def set_up(self) -> None:
        """Install the chart, and make the objects."""
        for path in sorted((helm.CHART / "crds").iterdir()):
            self.cluster.apply(path.read_text())
        self.cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        for name in (PLACE, TEAM):
            self.put(obj("Namespace", name))
        self.install({"node": {"allowKubeletCredential": True}})
        for name in (OWN, OTHER):
            made = self.put(obj("Node", name))
            self.uids[name] = made["metadata"]["uid"]
            identity = Identity(user=f"system:node:{name}", groups=("system:nodes",))
            authority = StoredAuthority(self.cluster.layout.pki)
            authority.issue_to(self.cluster.layout.identity(name), identity)
        for made in self._objects():
            self.put(made)
        self._allocate()
        layout = self.cluster.layout
        self._clients[KUBELET] = ApiClient(layout, layout.identity(OWN))
        self._clients[TOKEN] = ApiClient(layout, token=self.token(OWN))
        self._clients[UNBOUND] = ApiClient(layout, token=self.token())

    def new_name(self) -> str:
        """The name of an object that is not there yet."""
        return f"attempt-{next(self._names)}"

    def install(self, values: Json) -> None:
        """Apply the chart's objects, less its programs."""
        objects = [
            obj
            for obj in helm.render(self.directory, values, namespace=PLACE)
            if obj["kind"] not in ("Deployment", "PodDisruptionBudget")
        ]
        self.cluster.apply(yaml.safe_dump_all(objects))

    def token(self, node: str = "", hours: int = 1) -> str:
        """A token of the nodes' ServiceAccount, as an administrator makes it."""
        words = ["create", "token", ACCOUNT, "-n", PLACE, "--duration", f"{hours}h"]
        if node:
            words += ["--bound-object-kind", "Node", "--bound-object-name", node]
        return self.cluster.kubectl(*words).strip()

    def put(self, obj: Json, manager: str = "admin", subresource: str = "") -> Json:
        """Server-side apply as administrator."""
        path = path_of(obj) + (f"/{subresource}" if subresource else "")
        query = f"?fieldManager={manager}&force=true"
        return self._admin.request("PATCH", path + query, obj, APPLY)

    def create(self, path: str, obj: Json) -> Json:
        """Create as administrator."""
        return self._admin.request("POST", path, obj)

    def get(self, path: str) -> Json:
        """Read as administrator."""
        return self._admin.get(path)

    def send(self, by: str, request: Request, *, is_dry: bool = False) -> tuple[int, str]:
        """Send a request with a credential; status and text."""
        path = request.path
        if is_dry and request.method != "GET":
            path += f"{'&' if '?' in path else '?'}dryRun=All"
        text = "" if request.body is None else json.dumps(request.body)
        client = self._clients[by]
        for _ in range(BUSY_TRIES):
            code, said = client.send(
                request.method, path, text, request.content_type, request.headers
            )
            if code != BUSY:
                break
            time.sleep(0.5)  # "storage is (re)initializing": the CRDs are new
        return code, said

    def wait_for_policies(self) -> None:
        """Wait until each policy has refused a request: they are in force some seconds after their creation."""
        thief = device_status(CHANNEL, OTHER, status="False")
        status = a_claim("mine", {"status": {"devices": [thief]}})
        container = {"name": "c", "image": "busybox:1.36"}
        spec = {"serviceAccountName": ACCOUNT, "containers": [container]}
        pod = obj("Pod", "thief", spec=spec)
        heartbeat = {"status": {"heartbeatTime": "2099-01-01T00:00:00Z"}}
        claim = f"{RESOURCE_API}/v1/namespaces/{TEAM}/resourceclaims/mine/status"
        for by, request in (
            (TOKEN, Request("PATCH", f"{FABRIC_NODES}/{OTHER}/status", heartbeat, MERGE)),
            (TOKEN, Request("POST", f"{RESOURCE_API}/v1/resourceslices", self.a_slice("x", node=OTHER))),
            (UNBOUND, Request("POST", TOKENS, {"spec": {"expirationSeconds": 3600}})),
            (TOKEN, Request("PATCH", f"{claim}?fieldManager=thief&force=true", status, APPLY)),
            (TOKEN, Request("POST", f"/api/v1/namespaces/{TEAM}/events", self.an_event("x", reason="x"))),
            (ADMIN, Request("POST", f"/api/v1/namespaces/{PLACE}/pods", pod)),
        ):  # fmt: skip
            refuses = functools.partial(self._refuses, by, request)
            wait_until(f"a policy for {request.path}", refuses, timeout_s=60, interval_s=0.2)

    def _refuses(self, by: str, request: Request) -> bool:
        return self.send(by, request, is_dry=True)[0] == 403

    def state(self) -> dict[str, Json]:
        """Every object that an attack is about, by its path, less what the API server notes itself."""
        lists = (
            f"{RESOURCE_API}/v1/resourceslices", f"{RESOURCE_API}/v1/resourceclaims",
            FABRIC_NODES, f"{DOMAINS}/computedomains", f"/api/v1/namespaces/{TEAM}/events",
            f"/api/v1/namespaces/{TEAM}/pods", f"/api/v1/namespaces/{PLACE}/pods",
            f"/api/v1/namespaces/{PLACE}/secrets", "/api/v1/nodes",
        )  # fmt: skip
        found = {}
        for path in lists:
            for item in self.get(path)["items"]:
                noted = ("managedFields", "resourceVersion", "annotations")
                metadata = {k: v for k, v in item["metadata"].items() if k not in noted}
                kept = {k: v for k, v in item.items() if k not in ("metadata", "status", "spec")}
                if path.endswith(("/pods", "/nodes")):
                    found[f"{path}/{metadata['name']}"] = {"labels": metadata.get("labels")}
                    continue
                content = {key: item.get(key) for key in ("spec", "status")}
                found[f"{path}/{metadata['name']}"] = {**kept, "metadata": metadata, **content}
        return found

    def _objects(self) -> Iterator[Json]:
        for name in ("gpu.nvidia.com",):
            assert self.get(f"{RESOURCE_API}/v1/deviceclasses/{name}")
        yield self.a_slice("own-gpu")
        yield self.a_slice("own-nic", driver=NIC)
        yield self.a_slice("theirs-gpu", node=OTHER)
        for name in (OWN, OTHER):
            yield obj("FabricNode", name, spec={})
        yield objects.domain("train", TEAM, nodes=1)
        requests = [objects.request(name, count=2) for name in ("gpu", "nic", "far")]
        for name in ("mine", "theirs", "idle", "free"):
            yield a_claim(name, {"spec": {"devices": {"requests": requests}}})
        yield self._pod()

    def _pod(self) -> Json:
        container = {
            "name": "c",
            "image": "busybox:1.36",
            "resources": {"claims": [{"name": "gpu"}]},
        }
        return objects.pod("worker", TEAM, container, claims={"gpu": "mine"}, nodeName=OWN)

    def _allocate(self) -> None:
        """What scheduler, kubelet and other drivers write: allocations, reservations, statuses, an event."""
        pod = self.get(f"/api/v1/namespaces/{TEAM}/pods/worker")
        self.uids["worker"] = pod["metadata"]["uid"]
        user = {"resource": "pods", "name": "worker", "uid": self.uids["worker"]}
        for name, node, far, reserved in (
            ("mine", OWN, OTHER, [user]),
            ("idle", OWN, OTHER, []),
            ("theirs", OTHER, OTHER, []),
        ):
            results = [
                {"request": request, "driver": driver, "pool": pool, "device": f"dev-{number}"}
                for request, driver, pool in (("gpu", GPU, node), ("nic", NIC, node), ("far", CHANNEL, far))
                for number in (0, 1)
            ]  # fmt: skip
            allocation = {
                "devices": {"results": results},
                "nodeSelector": objects.node_selector(node),
            }
            status = {"allocation": allocation, "reservedFor": reserved}
            self.put(a_claim(name, {"status": status}), "scheduler", "status")
            statuses = ((NIC, NIC_MANAGER, node), (CHANNEL, OTHER_MANAGER, far))
            for driver, manager, pool in statuses if name != "idle" else ():
                entry = device_status(driver, pool)
                self.put(a_claim(name, {"status": {"devices": [entry]}}), manager, "status")
        self.put(self.an_event("theirs"), "other-node")

    def a_slice(self, name: str, *, version: str = "v1", node: str = OWN, pool: str = "", **spec: Any) -> Json:  # fmt: skip
        """A slice as a node publishes it, with changes."""
        device: Json = {"name": "dev-0", "attributes": {"type": {"string": "gpu"}}}
        if version == "v1beta1":
            device = {"name": "dev-0", "basic": {"attributes": device["attributes"]}}
        owner = reference("Node", node, uid=self.uids[node])
        return {
            "apiVersion": f"resource.k8s.io/{version}", "kind": "ResourceSlice",
            "metadata": {"name": name, "ownerReferences": [owner]},
            "spec": {
                "driver": GPU, "nodeName": node, "devices": [device],
                "pool": {"name": pool or node, "generation": 1, "resourceSliceCount": 1}, **spec,
            },
        }  # fmt: skip

    def an_event(self, name: str, **fields: Any) -> Json:
        """An event as a node writes it, with changes."""
        about = {
            "apiVersion": "v1", "kind": "Pod", "namespace": TEAM, "name": "worker", "uid": self.uids["worker"]
        }  # fmt: skip
        return {
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": TEAM},
            "involvedObject": about, "type": "Warning", "reason": "WaitingForDevice", "message": "waits",
            "source": {"component": f"nvdra-{GPU}", "host": OWN},
            "reportingComponent": f"nvdra-{GPU}", "reportingInstance": OWN,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1,
            **fields,
        }  # fmt: skip


@contextmanager
def a_world(name: str, directory: Path, kubernetes: str = NEWEST) -> Iterator[World]:
    """A control plane of that version, with the chart's policies in force."""
    with Cluster.up(name, nodes=0, kubernetes=kubernetes) as cluster:
        made = World(cluster, directory)
        made.set_up()
        made.wait_for_policies()
        yield made


def a_claim(name: str, parts: Json, version: str = "v1") -> Json:
    """A claim of TEAM."""
    head = {"apiVersion": f"resource.k8s.io/{version}", "kind": "ResourceClaim"}
    return {**head, "metadata": {"name": name, "namespace": TEAM}, **parts}


def device_status(driver: str, pool: str, device: str = "dev-0", status: str = "True") -> Json:
    """An entry of ``status.devices``."""
    condition = {
        "type": "Ready", "status": status, "reason": "Prepared", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    return {"driver": driver, "pool": pool, "device": device, "conditions": [condition]}


LABEL = {"metadata": {"labels": {"changed": "true"}}}
PLURALS = {
    "ResourceSlice": "resourceslices", "ResourceClaim": "resourceclaims", "FabricNode": "fabricnodes",
    "ComputeDomain": "computedomains", "Namespace": "namespaces", "Node": "nodes", "Pod": "pods",
    "Event": "events",
}  # fmt: skip


def path_of(obj: Json) -> str:
    """The path of an object."""
    version, metadata = obj["apiVersion"], obj["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    if namespace := metadata.get("namespace"):
        root += f"/namespaces/{namespace}"
    return f"{root}/{PLURALS[obj['kind']]}/{metadata['name']}"
