"""What a cluster's administrator sets up before nodes get credentials of their own, and what the playbooks are told of it."""

from __future__ import annotations

from typing import Any

from tests.cluster.layout import SERVER
from tests.e2e import manifests as m
from tests.rack.hosts import Rack

PLACE, ACCOUNT = "nvdra-system", "nvdra-node"
_GROUP = "rbac.authorization.k8s.io"
_RULES = [
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]},
    {
        "apiGroups": ["resource.k8s.io"],
        "resources": ["resourceslices"],
        "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
    },
    {"apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims"], "verbs": ["get"]},
    {
        "apiGroups": ["resource.k8s.io"],
        "resources": ["resourceclaims/status"],
        "verbs": ["update", "patch"],
    },
    {
        "apiGroups": ["resource.k8s.io"],
        "resources": ["resourceclaims/driver"],
        "resourceNames": ["gpu.nvidia.com"],
        "verbs": ["associated-node:patch", "associated-node:update"],
    },
]


def set_up(rack: Rack) -> None:
    """Make the ServiceAccount, and let it do what the service needs."""
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"namespace": PLACE, "name": ACCOUNT},
    }
    role = {
        "apiVersion": f"{_GROUP}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": ACCOUNT},
        "rules": _RULES,
    }
    binding = {
        "apiVersion": f"{_GROUP}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": ACCOUNT},
        "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": ACCOUNT},
        "subjects": [{"kind": "ServiceAccount", "namespace": PLACE, "name": ACCOUNT}],
    }
    rack.bed.apply(m.namespace(PLACE), account, role, binding)


def variables(rack: Rack) -> dict[str, Any]:
    """What the playbook site is told: which credential, and how to reach the API server from here and from there."""
    layout = rack.cluster.layout
    return {
        "nvdra_credential": "service_account",
        "nvdra_service_account": f"{PLACE}/{ACCOUNT}",
        "nvdra_api_server": SERVER,
        "nvdra_api_ca": (layout.pki / "ca.crt").read_text(),
        "nvdra_kubectl": [*rack.cluster.enter, str(layout.program("kubectl"))],
        "nvdra_kubeconfig": str(layout.admin_kubeconfig),
    }


def problems(rack: Rack, host: str) -> list[str]:
    """What is wrong with the credential on a host: who it is, whom else may read it, whether the API server takes it."""
    node = rack.hosts[host]
    found = []
    mode = node.path("/etc/nvdra/token").stat().st_mode & 0o777
    if mode != 0o600:
        found.append(f"mode {mode:o}")
    token = node.path("/etc/nvdra/token").read_text().strip()
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token},
    }
    said = rack.cluster.client.request(
        "POST", "/apis/authentication.k8s.io/v1/tokenreviews", review
    )
    user = said["status"].get("user", {})
    if user.get("username") != f"system:serviceaccount:{PLACE}:{ACCOUNT}":
        found.append(f"user {user.get('username')}")
    bound = user.get("extra", {}).get("authentication.kubernetes.io/node-name")
    if bound != [host]:
        found.append(f"bound to {bound}")
    return found
