"""The fake's API: one HttpRequest in, one Reply out. Routes, authenticates, and calls ``reads`` and ``writes``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tests.fakes.apiserver.auth import NODE_EXTRA, Authenticator, User
from tests.fakes.apiserver.faults import Faults
from tests.fakes.apiserver.kinds import KINDS, RESOURCE_VERSIONS, Kind, Route, Router
from tests.fakes.apiserver.listener.messages import HttpRequest, Reply
from tests.fakes.apiserver.reads import Reader
from tests.fakes.apiserver.requestlog import Line, RequestLog
from tests.fakes.apiserver.status import StatusError, not_found
from tests.fakes.apiserver.store import Store, encode
from tests.fakes.apiserver.versions import to_version
from tests.fakes.apiserver.writes import Write, Writer, now

VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
TOKEN_LIFETIME_S = 3600
NODES = next(kind for kind in KINDS if kind.key == ("", "nodes"))
CONTROL_PREFIX = "/_fake/"
BODY_LIMIT = 3 * 1024 * 1024
"""The real server's limit for a request."""


class Api:
    """See the module. ``minor`` is that of Kubernetes 1.minor. Safe for several threads."""

    def __init__(
        self, *, minor: int = 36, is_auth_enforced: bool = False, bookmark_interval_s: float = 60.0
    ) -> None:
        self.router = Router(RESOURCE_VERSIONS[:1])
        self.minor = minor
        self.store = Store(to_version)
        self.authenticator = Authenticator(is_enforced=is_auth_enforced)
        self.reader = Reader(self.store, bookmark_interval_s=bookmark_interval_s)
        self.writer = Writer(self.store)
        self.faults = Faults()
        self.log = RequestLog()
        self.control: Callable[[HttpRequest, Route], Reply] | None = None
        """Answers paths under CONTROL_PREFIX, without authentication, faults and log."""

    def classify(self, request: HttpRequest) -> tuple[Route, str]:
        """The route and the verb, as RBAC and the faults name it."""
        route = self.router.find(request.target)
        verb = VERBS.get(request.method, request.method.lower())
        if not route.name and route.kind is not None:
            if verb == "get":
                verb = "watch" if route.query.get("watch") in {"true", "1"} else "list"
            elif verb == "delete":
                verb = "deletecollection"
        elif verb == "get" and route.query.get("watch") in {"true", "1"}:
            verb = "watch"
        return route, verb

    def answer(self, request: HttpRequest, route: Route, verb: str) -> Reply:
        """Carry the request out."""
        if self.control is not None and route.path.startswith(CONTROL_PREFIX):
            return self.control(request, route)
        user = ""
        try:
            caller = self.authenticator.authenticate(
                request.headers.get(b"authorization", b""), request.peer
            )
            user = caller.name
            reply = self._answer(request, route, verb, caller)
        except StatusError as error:
            reply = refusal(error)
        agent = request.headers.get(b"user-agent", b"").decode("latin-1")
        self.log.add(Line(verb, resource_of(route), reply.code, request.target, user, agent))
        return reply

    def _answer(self, request: HttpRequest, route: Route, verb: str, user: User) -> Reply:
        kind = route.kind
        if kind is None:
            return self._answer_path(route)
        if verb == "get":
            entry = self.store.find(kind, route.namespace, route.name)
            if entry is None:
                raise not_found(kind.plural, route.name, kind.group)
            return Reply(200, self.store.encode(kind, entry, route.version))
        if verb == "list":
            return Reply(200, self.reader.list_objects(kind, route))
        if verb == "watch":
            return Reply(200, stream=self.reader.watch(kind, route))
        return self._answer_write(request, route, verb, user)

    def _answer_write(self, request: HttpRequest, route: Route, verb: str, user: User) -> Reply:
        kind = route.kind
        assert kind is not None
        write = Write(
            user, route, kind, decode(request.body),
            manager=_manager(request, route),
            content_type=request.headers.get(b"content-type", b"").decode("latin-1").partition(";")[0],
        )  # fmt: skip
        if route.subresource == "token":
            return self._mint(write)
        if route.subresource not in {"", "status"} or (route.subresource and not kind.has_status):
            return not_found_path()
        if verb == "delete":
            last, is_gone = self.writer.delete(write)
            return self._deleted(kind, route, last.obj, is_gone=is_gone)
        if verb == "create" and not route.name:
            entry, code = self.writer.create(write), 201
        elif verb == "update" and route.name:
            entry, code = self.writer.update(write), 200
        elif verb == "patch" and route.name:
            existed = self.store.find(kind, route.namespace, route.name) is not None
            entry, code = self.writer.patch(write), 200 if existed else 201
        else:
            raise StatusError(
                405, "the server does not allow this method on the requested resource"
            )
        return Reply(code, self.store.encode(kind, entry, route.version))

    def _deleted(self, kind: Kind, route: Route, obj: dict[str, Any], *, is_gone: bool) -> Reply:
        if not is_gone:
            return Reply(200, encode(to_version(obj, kind, route.version)))
        details = {"name": route.name, "kind": kind.plural, "uid": obj["metadata"]["uid"]}
        if kind.group:
            details["group"] = kind.group
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return Reply(200, encode({**body, "details": details}))

    def _mint(self, write: Write) -> Reply:
        """TokenRequest, bound to a Node or to nothing."""
        namespace, account = write.route.namespace, write.route.name
        self.writer.existing(write)
        spec = dict(write.body.get("spec") or {})
        bound = spec.get("boundObjectRef") or {}
        if write.user.node and (bound.get("kind"), bound.get("name")) != ("Node", write.user.node):
            raise StatusError(403, "a node may ask only for tokens that are bound to itself")
        extra = {NODE_EXTRA: [str(bound.get("name"))]} if bound.get("kind") == "Node" else {}
        user = User(
            f"system:serviceaccount:{namespace}:{account}",
            ("system:serviceaccounts", f"system:serviceaccounts:{namespace}"),
            extra,
        )
        spec.setdefault("expirationSeconds", TOKEN_LIFETIME_S)
        claims = self._claims(namespace, account, spec)
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(claims["exp"]))
        answer = {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": account, "namespace": namespace, "creationTimestamp": now()},
            "spec": spec,
            "status": {
                "token": self.authenticator.mint(user, claims),
                "expirationTimestamp": expires,
            },
        }
        return Reply(201, encode(answer))

    def _claims(self, namespace: str, account: str, spec: dict[str, Any]) -> dict[str, Any]:
        """A token's payload. 404 and 409 as the real one answers for a Node that was deleted or recreated."""
        issued = int(time.time())
        claims = {"namespace": namespace, "serviceaccount": {"name": account}}
        bound = spec.get("boundObjectRef") or {}
        if bound.get("kind") == "Node":
            entry = self.store.find(NODES, "", str(bound.get("name")))
            if entry is None:
                raise StatusError(404, f'nodes "{bound.get("name")}" not found')
            uid = entry.obj["metadata"]["uid"]
            if bound.get("uid") not in {None, "", uid}:
                raise StatusError(409, "the UID in the bound object reference is not the Node's")
            claims["node"] = {"name": bound["name"], "uid": uid}
        expires = issued + int(spec["expirationSeconds"])
        return {"iat": issued, "exp": expires, "kubernetes.io": claims}

    def _answer_path(self, route: Route) -> Reply:
        path = route.path.rstrip("/")
        if path in {"/readyz", "/livez", "/healthz"}:
            return Reply(200, b"ok", content_type="text/plain")
        if path == "/version":
            minor = self.minor
            version = {
                "major": "1",
                "minor": str(minor),
                "gitVersion": f"v1.{minor}.0",
                "platform": "linux/fake",
            }
            return Reply(200, encode(version))
        found = self._discover(path)
        return Reply(200, encode(found)) if found else not_found_path()

    def _discover(self, path: str) -> dict[str, Any] | None:
        """An API group and its versions; resources are not discovered."""
        group = path.removeprefix("/apis/")
        versions = next((k.versions for k in self.router.kinds.values() if k.group == group), ())
        if not versions:
            return None
        listed = [
            {"groupVersion": f"{group}/{version}", "version": version} for version in versions
        ]
        head = {"kind": "APIGroup", "apiVersion": "v1", "name": group}
        return {**head, "versions": listed, "preferredVersion": listed[0]}


def resource_of(route: Route) -> str:
    """How logs and faults name what a request is about: ``resourceclaims/status``, or the path."""
    if route.kind is None:
        return route.path
    return f"{route.kind.plural}/{route.subresource}" if route.subresource else route.kind.plural


def decode(body: bytes) -> dict[str, Any]:
    """A request's JSON object, empty for an empty body; raises StatusError (400, 413)."""
    if len(body) > BODY_LIMIT:
        raise StatusError(
            413, f"Request entity too large: limit is {BODY_LIMIT}", reason="RequestEntityTooLarge"
        )
    if not body:
        return {}
    try:
        found = json.loads(body)
    except ValueError as error:
        raise StatusError(400, f"the object provided is unrecognized: {error}") from None
    if not isinstance(found, dict):
        raise StatusError(400, "the object provided is no object")
    return found


def refusal(error: StatusError) -> Reply:
    """The reply for an error."""
    reply = Reply(error.code, encode(error.body()))
    if seconds := error.details.get("retryAfterSeconds"):
        reply.headers.append(("Retry-After", str(seconds)))
    return reply


def not_found_path() -> Reply:
    """What the real server says to a path it does not serve: no Status object."""
    return Reply(404, b"404 page not found\n", content_type="text/plain; charset=utf-8")


def _manager(request: HttpRequest, route: Route) -> str:
    named = route.query.get("fieldManager", "")
    if named or (
        request.method == "PATCH" and b"apply" in request.headers.get(b"content-type", b"")
    ):
        return named
    return request.headers.get(b"user-agent", b"unknown").decode("latin-1").partition("/")[0]
