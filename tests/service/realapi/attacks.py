"""What a stolen node could do to tokens, FabricNodes, events and everything else in the API; and all attacks in a list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.beds.services.attackbed import (
    ADMIN,
    APPLY,
    DOMAINS,
    FABRIC_NODES,
    GPU,
    JSON_PATCH,
    KUBELET,
    LABEL,
    MERGE,
    NODE_RULES,
    OTHER,
    OWN,
    PLACE,
    POLICY,
    RBAC,
    RESOURCE_API,
    STRATEGIC,
    TEAM,
    TOKEN,
    TOKENS,
    UNBOUND,
    Attack,
    Json,
    Request,
    World,
    fixed,
)
from tests.lib.objects import obj, reference
from tests.service.realapi.claimattacks import of_claim_statuses, of_claims
from tests.service.realapi.sliceattacks import of_slices

Make = Callable[[World], Request]


def every() -> list[Attack]:
    """All attacks, in the order of the table."""
    return [
        *of_slices(), *of_claim_statuses(), *of_claims(), *of_tokens(), *of_accounts(), *of_fabric_nodes(),
        *of_events(), *of_reads(), *of_the_rest(),
    ]  # fmt: skip


def of_tokens() -> Iterator[Attack]:
    """A node renews its own token, and gets no other."""

    def ask(change: Callable[[Json], Json], path: str = TOKENS) -> Make:
        def make(world: World) -> Request:
            bound = reference("Node", OWN, uid=world.uids[OWN])
            spec = change({"boundObjectRef": bound, "expirationSeconds": 3600})
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
            return Request("POST", path, body)

        return make

    def setting(**fields: Any) -> Callable[[Json], Json]:
        return lambda spec: {**spec, **fields}

    def attack(row: str, make: Make, held_by: str = POLICY, is_valid: bool = True, by: str = TOKEN) -> Attack:  # fmt: skip
        return Attack(row, "create", "v1", by, held_by, make, is_valid)

    row = "asks for a token of another node, or of none"
    node = reference("Node", OTHER)
    yield attack(row, ask(setting(boundObjectRef=node)))
    yield attack(
        row, ask(setting(boundObjectRef={**node, "name": OWN, "uid": "another"})), is_valid=False
    )
    yield attack(
        row,
        ask(setting(boundObjectRef=reference("Pod", "worker"))),
        is_valid=False,
    )
    yield attack(row, ask(setting(boundObjectRef=None)))
    yield attack(row, ask(setting()), by=UNBOUND)
    row = "asks for a token for another audience than the API server"
    for audiences in (["vault"], ["https://kubernetes.default.svc", "vault"], [""]):
        yield attack(row, ask(setting(audiences=audiences)))
    row = "asks for a token that lives longer than nodes' tokens do"
    for hours in (169, 720, 24 * 365):
        yield attack(row, ask(setting(expirationSeconds=hours * 3600)))
    row = "asks for a token of another ServiceAccount"
    for namespace, name in (
        (PLACE, "nvdra-controller"),
        (TEAM, "default"),
        ("kube-system", "default"),
    ):
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        yield attack(row, ask(setting(), path), RBAC)
        yield attack(row, ask(setting(), path), NODE_RULES, by=KUBELET)
    row = "asks for a token of the nodes' ServiceAccount with the kubelet's credential"
    yield attack(row, ask(setting()), NODE_RULES, by=KUBELET)


def of_accounts() -> Iterator[Attack]:
    """The identity of a node is refused to administrators too."""
    row = "runs a pod as the nodes' ServiceAccount, or keeps a token of it in a Secret (anybody)"
    pods, secrets = f"/api/v1/namespaces/{PLACE}/pods", f"/api/v1/namespaces/{PLACE}/secrets"
    container = {"name": "c", "image": "busybox:1.36"}
    for field in ("serviceAccountName", "serviceAccount"):
        spec = {field: "nvdra-node", "nodeName": OWN, "containers": [container]}
        pod = obj("Pod", "thief", spec=spec)
        yield Attack(row, "create", "v1", ADMIN, POLICY, fixed("POST", pods, pod), False)
        yield Attack(row, "create", "v1", TOKEN, RBAC, fixed("POST", pods, pod), False)
        yield Attack(row, "create", "v1", KUBELET, NODE_RULES, fixed("POST", pods, pod), False)
    metadata = {
        "name": "thief",
        "annotations": {"kubernetes.io/service-account.name": "nvdra-node"},
    }
    secret = {
        "apiVersion": "v1", "kind": "Secret", "metadata": metadata,
        "type": "kubernetes.io/service-account-token",
    }  # fmt: skip
    yield Attack(row, "create", "v1", ADMIN, POLICY, fixed("POST", secrets, secret), False)
    yield Attack(row, "create", "v1", TOKEN, RBAC, fixed("POST", secrets, secret), False)


def of_fabric_nodes() -> Iterator[Attack]:
    """A node writes the status of its own."""
    row = "writes the FabricNode of another node"
    path = f"{FABRIC_NODES}/{OTHER}/status"
    status = {"heartbeatTime": "2099-01-01T00:00:00Z"}
    head = {"apiVersion": "fabric.nvdra.io/v1alpha1", "kind": "FabricNode"}
    applied = {**head, "metadata": {"name": OTHER}, "status": status}
    ops = [{"op": "add", "path": "/status", "value": status}]
    forms = {
        "patch (merge)": fixed("PATCH", path, {"status": status}, MERGE),
        "patch (JSON)": fixed("PATCH", path, ops, JSON_PATCH),
        "patch (apply)": fixed("PATCH", f"{path}?fieldManager=thief&force=true", applied, APPLY),
    }
    for form, make in forms.items():
        for by in (TOKEN, KUBELET, UNBOUND):
            yield Attack(row, form, "v1alpha1", by, POLICY, make)
    row = "makes or deletes a FabricNode, or writes its spec or metadata"
    own = f"{FABRIC_NODES}/{OWN}"
    owner = reference("Node", OTHER, uid="x")
    for form, make in (
        ("create", fixed("POST", FABRIC_NODES, {**head, "metadata": {"name": "node-9"}})),
        ("delete", fixed("DELETE", own)),
        ("deletecollection", fixed("DELETE", FABRIC_NODES)),
        ("update", lambda world: Request("PUT", own, world.get(own))),
        ("update", lambda world: Request("PUT", f"{own}/status", world.get(own))),
        ("patch (merge)", fixed("PATCH", own, {"spec": {"slot": 0}}, MERGE)),
        ("patch (merge)", fixed("PATCH", own, LABEL, MERGE)),
        ("patch (merge)", fixed("PATCH", own, {"metadata": {"annotations": {"a": "b"}}}, MERGE)),
        ("patch (merge)", fixed("PATCH", own, {"metadata": {"finalizers": ["example.com/stay"]}}, MERGE)),
        ("patch (merge)", fixed("PATCH", own, {"metadata": {"ownerReferences": [owner]}}, MERGE)),
        ("patch (JSON)", fixed("PATCH", own, [{"op": "add", "path": "/spec", "value": {"slot": 0}}], JSON_PATCH)),
        ("patch (apply)", fixed(
            "PATCH", f"{own}?fieldManager=thief&force=true",
            {**head, "metadata": {"name": OWN}, "spec": {"slot": 0}}, APPLY,
        )),
    ):  # fmt: skip
        for by in (TOKEN, KUBELET):
            yield Attack(row, form, "v1alpha1", by, RBAC, make)


def of_events() -> Iterator[Attack]:
    """A node writes that a pod waits, in its own name."""
    events = f"/api/v1/namespaces/{TEAM}/events"

    def write(namespace: str = TEAM, **fields: Any) -> Make:
        def make(world: World) -> Request:
            event = world.an_event(world.new_name(), **fields)
            event["metadata"]["namespace"] = namespace
            return Request("POST", f"/api/v1/namespaces/{namespace}/events", event)

        return make

    row = "writes events about anything but its Node and pods that wait, or in another's name"
    node = reference("Node", OTHER, uid=OTHER)
    domain = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "ComputeDomain", "name": "train", "namespace": TEAM}  # fmt: skip
    other_pod = {"apiVersion": "v1", "kind": "Pod", "namespace": TEAM, "name": "worker"}
    for make in (
        write("default", involvedObject=node),
        write(involvedObject=domain),
        write(
            involvedObject={
                **other_pod,
                "kind": "ResourceClaim",
                "apiVersion": "resource.k8s.io/v1",
            }
        ),
        write(reason="Failed"),
        write(type="Normal"),
        write(source={"component": "kubelet", "host": OWN}),
        write(reportingComponent="kubelet"),
        write(source={"component": f"nvdra-{GPU}", "host": OTHER}),
        write(source={"component": f"nvdra-{GPU}"}),
        write(reportingInstance=OTHER),
        write(related=node),
    ):
        yield Attack(row, "create", "v1", TOKEN, POLICY, make)
    yield Attack(row, "create", "v1", UNBOUND, POLICY, write())
    row = "changes, deletes or lists events"
    theirs = f"{events}/theirs"
    for form, make in (
        ("patch (merge)", fixed("PATCH", theirs, {"message": "all is well"}, MERGE)),
        ("patch (strategic)", fixed("PATCH", theirs, {"message": "all is well"}, STRATEGIC)),
        ("patch (JSON)", fixed("PATCH", theirs, [{"op": "replace", "path": "/message", "value": "x"}], JSON_PATCH)),
        ("update", lambda world: Request("PUT", theirs, world.get(theirs))),
        ("delete", fixed("DELETE", theirs)),
        ("deletecollection", fixed("DELETE", events)),
        ("list", fixed("GET", "/api/v1/events")),
        ("list", fixed("GET", f"/apis/events.k8s.io/v1/namespaces/{TEAM}/events")),
    ):  # fmt: skip
        yield Attack(row, form, "v1", TOKEN, RBAC, make)


def of_reads() -> Iterator[Attack]:
    """Admission cannot refuse reads: a right that no code needs is not given."""
    row = "reads ComputeDomains"
    for form, path in (
        ("get", f"{DOMAINS}/namespaces/{TEAM}/computedomains/train"),
        ("list", f"{DOMAINS}/computedomains"),
        ("list", f"{DOMAINS}/namespaces/{TEAM}/computedomains"),
        ("watch", f"{DOMAINS}/computedomains?watch=true&timeoutSeconds=1"),
        ("list", f"{DOMAINS}/computedomaincliques"),
    ):
        for by in (TOKEN, KUBELET):
            yield Attack(row, form, "v1beta1", by, RBAC, fixed("GET", path))
    row = "reads slices by name, Secrets, pods, ServiceAccounts, roles, or lists Nodes"
    for path in (
        f"{RESOURCE_API}/v1/resourceslices/theirs-gpu",
        "/api/v1/secrets", f"/api/v1/namespaces/{PLACE}/secrets", "/api/v1/pods",
        f"/api/v1/namespaces/{TEAM}/pods/worker", f"/api/v1/namespaces/{PLACE}/serviceaccounts/nvdra-node",
        "/api/v1/configmaps", "/api/v1/nodes", "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "/apis/coordination.k8s.io/v1/leases",
    ):  # fmt: skip
        form = "get" if path.count("/") in (5, 7) and "namespaces" in path else "list"
        yield Attack(row, form, "v1", TOKEN, RBAC, fixed("GET", path))
    every_slice = fixed("GET", f"{RESOURCE_API}/v1/resourceslices")
    yield Attack("lists slices of other nodes", "list", "v1", KUBELET, NODE_RULES, every_slice)


def of_the_rest() -> Iterator[Attack]:
    """Nodes, pods, domains, and other identities."""
    row = "writes Nodes, pods, ComputeDomains, device classes, policies or roles"
    pod = f"/api/v1/namespaces/{TEAM}/pods/worker"
    policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    for form, make in (
        ("patch (merge)", fixed("PATCH", f"/api/v1/nodes/{OWN}", LABEL, MERGE)),
        ("patch (merge)", fixed("PATCH", f"/api/v1/nodes/{OTHER}/status", LABEL, MERGE)),
        ("delete", fixed("DELETE", f"/api/v1/nodes/{OTHER}")),
        ("patch (merge)", fixed("PATCH", pod, LABEL, MERGE)),
        ("delete", fixed("DELETE", pod)),
        ("patch (merge)", fixed("PATCH", f"{DOMAINS}/namespaces/{TEAM}/computedomains/train", LABEL, MERGE)),
        ("delete", fixed("DELETE", f"{DOMAINS}/namespaces/{TEAM}/computedomains/train")),
        ("patch (merge)", fixed("PATCH", f"{DOMAINS}/namespaces/{TEAM}/computedomains/train/status", LABEL, MERGE)),
        ("delete", fixed("DELETE", f"{RESOURCE_API}/v1/deviceclasses/gpu.nvidia.com")),
        ("delete", fixed("DELETE", f"{policies}/nvdra-node-slices")),
        ("patch (merge)", fixed("PATCH", "/apis/rbac.authorization.k8s.io/v1/clusterroles/nvdra-node", LABEL, MERGE)),
    ):  # fmt: skip
        yield Attack(row, form, "v1", TOKEN, RBAC, make)
    row = "evicts, binds or enters pods, reaches another kubelet, or asks for a certificate"
    evict = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "worker"}}
    bind = {"apiVersion": "v1", "kind": "Binding", "target": {"kind": "Node", "name": OTHER}}
    signing = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    request = {
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "thief"},
    }  # fmt: skip
    for form, make in (
        ("create", fixed("POST", f"{pod}/eviction", evict)),
        ("create", fixed("POST", f"{pod}/binding", bind)),
        ("create", fixed("POST", f"{pod}/exec?command=sh")),
        ("get", fixed("GET", f"/api/v1/nodes/{OTHER}/proxy/pods")),
        ("get", fixed("GET", f"{pod}/log")),
        ("create", fixed("POST", signing, request)),
    ):
        yield Attack(row, form, "v1", TOKEN, RBAC, make, False)
    row = "acts as another user (impersonation)"
    for name, value in (
        ("User", "system:admin"), ("User", f"system:node:{OTHER}"),
        ("User", f"system:serviceaccount:{PLACE}:nvdra-controller"),
    ):  # fmt: skip
        make = fixed("GET", "/api/v1/nodes", **{f"Impersonate-{name}": value})
        yield Attack(row, "impersonate", "v1", TOKEN, RBAC, make, False)
        yield Attack(row, "impersonate", "v1", KUBELET, RBAC, make, False)
