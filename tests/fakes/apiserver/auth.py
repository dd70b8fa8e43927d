"""Who may do what, when the fake is asked to check: the Node authorizer, NodeRestriction and nvdra's own policies.

Three sorts of callers: members of system:masters may all; ``system:node:<node>`` is a kubelet; a ServiceAccount whose
token is bound to a node is an nvdra service. Everybody else may nothing. Source: DRA contract, section 8.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.apiserver import claims
from tests.fakes.apiserver.kinds import KINDS, Kind, Route
from tests.fakes.apiserver.status import StatusError, forbidden
from tests.fakes.apiserver.store import Store

JsonObject = dict[str, Any]
NODE_EXTRA = "authentication.kubernetes.io/node-name"
ADMIN_TOKEN = "fake-admin-token"
PODS = next(kind for kind in KINDS if kind.key == ("", "pods"))


@dataclass(frozen=True, slots=True)
class User:
    """A caller. ``extra`` maps keys to lists of values, as in UserInfo."""

    name: str
    groups: tuple[str, ...] = ()
    extra: dict[str, list[str]] = field(default_factory=dict)

    @property
    def node(self) -> str:
        """The node this caller acts for; empty for others."""
        if self.name.startswith("system:node:"):
            return self.name.removeprefix("system:node:")
        values = self.extra.get(NODE_EXTRA, [])
        return values[0] if len(values) == 1 else ""

    @property
    def is_admin(self) -> bool:
        """Whether everything is allowed."""
        return "system:masters" in self.groups

    @property
    def is_kubelet(self) -> bool:
        """Whether the Node authorizer speaks for this caller."""
        return self.name.startswith("system:node:") and "system:nodes" in self.groups


ADMIN = User("admin", ("system:masters",))
ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))


class Gatekeeper:
    """Authentication by token or client certificate, then authorization and admission. Off: everybody is admin."""

    def __init__(self, store: Store, *, is_enforced: bool) -> None:
        self.is_enforced = is_enforced
        self._store = store
        self._lock = threading.Lock()
        self._tokens: dict[str, User] = {ADMIN_TOKEN: ADMIN}

    def add_token(self, token: str, user: User) -> None:
        """Let a bearer token stand for a user."""
        with self._lock:
            self._tokens[token] = user

    def remove_token(self, token: str) -> None:
        """Let a token expire."""
        with self._lock:
            self._tokens.pop(token, None)

    def mint(self, user: User, claims: JsonObject | None = None) -> str:
        """A new token for a user, of the shape of a JWT; with ``claims`` as its payload."""
        parts = [secrets.token_urlsafe(16) for _ in range(3)]
        if claims is not None:
            payload = base64.urlsafe_b64encode(json.dumps(claims).encode())
            parts[1] = payload.decode().rstrip("=")
        token = ".".join(parts)
        self.add_token(token, user)
        return token

    def authenticate(self, authorization: bytes, peer: User | None) -> User:
        """The caller behind a header or a client certificate; raises StatusError (401)."""
        if authorization:
            user = self._tokens.get(authorization.removeprefix(b"Bearer ").decode("latin-1"))
            if user is not None:
                return user
            if self.is_enforced:
                raise StatusError(401, "Unauthorized")
        if peer is not None:
            return peer
        if self.is_enforced:
            raise StatusError(401, "Unauthorized")
        return ADMIN

    def authorize(self, user: User, verb: str, route: Route) -> None:
        """Check what the URL alone decides; raises StatusError (403)."""
        kind = route.kind
        if kind is None or user.is_admin or not self.is_enforced:
            return
        is_allowed = (
            self._kubelet_may(user, verb, route)
            if user.is_kubelet
            else bool(user.node) and _service_may(user, verb, route)
        )
        if not is_allowed:
            plural = f"{kind.plural}/{route.subresource}" if route.subresource else kind.plural
            raise forbidden(
                plural,
                route.name,
                kind.group,
                f'User "{user.name}" cannot {verb} resource "{plural}"',
            )

    def admit(self, user: User, kind: Kind, new: JsonObject | None, old: JsonObject | None) -> None:
        """Check what the objects decide; ``new`` None is a deletion. Raises StatusError (403)."""
        if user.is_admin or not self.is_enforced:
            return
        for obj in (new, old):
            if obj is not None and (why := _objection(user, kind, obj)):
                raise forbidden(kind.plural, obj["metadata"].get("name", ""), kind.group, why)
        if kind.plural == "resourceclaims" and new is not None and old is not None:
            self._admit_claim_status(user, kind, new, old)

    def _admit_claim_status(self, user: User, kind: Kind, new: JsonObject, old: JsonObject) -> None:
        name = old["metadata"]["name"]
        if claims.is_binding_changed(new, old):
            raise forbidden(
                kind.plural, name, kind.group, "may not change allocation or reservedFor"
            )
        if claims.changed_drivers(new, old) and (
            user.is_kubelet or claims.node_of(old) != user.node
        ):
            raise forbidden(kind.plural, name, kind.group, "the claim is not allocated to the node")

    def _kubelet_may(self, user: User, verb: str, route: Route) -> bool:
        plural = route.kind.plural if route.kind else ""
        own = f"spec.nodeName={user.node}"
        is_own_selection = own in route.query.get("fieldSelector", "").split(",")
        if plural == "resourceslices":
            return is_own_selection if not route.name and verb != "create" else True
        if plural == "resourceclaims":
            return verb == "get" and not route.subresource and self._is_claim_of_pod_on(user, route)
        if plural == "nodes":
            return route.name == user.node and verb in {"get", "patch", "update"}
        if plural == "pods":
            return (verb in {"list", "watch"} and is_own_selection) or verb == "get"
        if plural == "leases":
            return route.namespace == "kube-node-lease" and route.name in {"", user.node}
        return plural == "events" and verb in {"create", "patch"}

    def _is_claim_of_pod_on(self, user: User, route: Route) -> bool:
        with self._store.lock:
            return any(
                (entry.obj.get("spec") or {}).get("nodeName") == user.node
                and route.name in _claims_of(entry.obj)
                for (namespace, _), entry in self._store.table(PODS).entries.items()
                if namespace == route.namespace
            )


def _claims_of(pod: JsonObject) -> set[str]:
    spec = (pod.get("spec") or {}).get("resourceClaims") or []
    status = (pod.get("status") or {}).get("resourceClaimStatuses") or []
    return {str(entry.get("resourceClaimName")) for entry in (*spec, *status)}


SERVICE_RULES: dict[tuple[str, str], frozenset[str]] = {
    ("resourceslices", ""): frozenset({"list", "watch", "create", "update", "delete"}),
    ("resourceclaims", ""): frozenset({"get"}),
    ("resourceclaims", "status"): frozenset({"patch"}),
    ("nodes", ""): frozenset({"get"}),
    ("fabricnodes", ""): frozenset({"list", "watch"}),
    ("fabricnodes", "status"): frozenset({"patch"}),
    ("events", ""): frozenset({"create"}),
    ("serviceaccounts", "token"): frozenset({"create"}),
}
"""What the chart's RBAC grants nvdra's own ServiceAccounts: (plural, subresource) to verbs."""


def _service_may(user: User, verb: str, route: Route) -> bool:
    plural = route.kind.plural if route.kind else ""
    if plural == "serviceaccounts" and route.name != user.name.rpartition(":")[2]:
        return False
    return verb in SERVICE_RULES.get((plural, route.subresource), frozenset())


def _objection(user: User, kind: Kind, obj: JsonObject) -> str:
    """Why the caller may not write this object; empty when it may."""
    if kind.plural == "resourceslices":
        if (obj.get("spec") or {}).get("nodeName") != user.node:
            return f'spec.nodeName must be "{user.node}"'
        pool = ((obj.get("spec") or {}).get("pool") or {}).get("name")
        if not user.is_kubelet and pool != user.node:
            return f'spec.pool.name must be "{user.node}"'
        owners = obj["metadata"].get("ownerReferences") or []
        if not user.is_kubelet and [(o.get("kind"), o.get("name")) for o in owners] != [
            ("Node", user.node)
        ]:
            return "the slice must be owned by the node alone"
    if kind.plural in {"fabricnodes", "nodes"} and obj["metadata"].get("name") != user.node:
        return f'only the object of node "{user.node}" may be written'
    return ""
