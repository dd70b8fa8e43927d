"""Kubernetes client: get, list, create, update, patch, apply and delete on plain JSON objects.

All calls are safe from several threads. Each takes an optional Deadline that bounds it with its retries (30 s without
one). Errors are ApiError: ``status`` 0 when no answer came, 404 with ``api_reason`` NotFound when the object does not
exist, 409 for conflicts, which are never retried here. A write that was lost on the way is retried only if repeating
is harmless; otherwise the caller reads and decides.
"""

from __future__ import annotations

import json
from urllib.parse import quote, urlencode

from nvdra_core.errors import ApiError
from nvdra_core.kube.errors import TransportError
from nvdra_core.kube.resources import (
    EVERYTHING,
    JsonObject,
    ObjectList,
    Preconditions,
    Resource,
    Selector,
    WriteOptions,
)
from nvdra_core.kube.transport import Request, RetryingTransport
from nvdra_core.runtime.clock import Deadline

PAGE_SIZE = 500
LIST_RESTARTS = 3
APPLY = "application/apply-patch+yaml"
"""The server takes JSON under this type too, as JSON is YAML."""
MERGE_PATCH = "application/merge-patch+json"
DEFAULT_WRITE = WriteOptions()
ANY_STATE = Preconditions()


class ResourceClient:
    """The calls, on any transport."""

    def __init__(self, transport: RetryingTransport) -> None:
        self._transport = transport

    def close(self) -> None:
        """End all connections and watches, from any thread."""
        self._transport.close()

    def get(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str = "",
        deadline: Deadline | None = None,
    ) -> JsonObject:
        """Read one object."""
        request = Request("GET", resource.path(namespace=namespace, name=name))
        return self._call(request, deadline)

    def get_path(self, path: str, *, deadline: Deadline | None = None) -> JsonObject:
        """Read any JSON the API server has, e.g. ``/version``."""
        return self._call(Request("GET", path), deadline)

    def list(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        selector: Selector = EVERYTHING,
        deadline: Deadline | None = None,
    ) -> ObjectList:
        """Read all selected objects, in pages of PAGE_SIZE; starts again when the pages went out of date.

        Items of Kubernetes' own kinds carry no apiVersion and kind, as in the API.
        """
        path = resource.path(namespace=namespace)
        for _ in range(LIST_RESTARTS):
            if (found := self._list_pages(path, selector, deadline)) is not None:
                return found
        raise TransportError(f"list {resource.plural}: the pages went out of date each time")

    def create(
        self,
        resource: Resource,
        body: JsonObject,
        *,
        options: WriteOptions = DEFAULT_WRITE,
        deadline: Deadline | None = None,
    ) -> JsonObject:
        """Create ``body`` (in its own namespace) and return what is stored; 409 AlreadyExists when it is there."""
        name = _name(body) if resource.subresource else ""
        target = resource.path(namespace=_namespace(body), name=name)
        return self._call(
            Request("POST", query(target, options.parameters()), encode(body)), deadline
        )

    def update(
        self,
        resource: Resource,
        body: JsonObject,
        *,
        options: WriteOptions = DEFAULT_WRITE,
        deadline: Deadline | None = None,
    ) -> JsonObject:
        """Replace the whole object; 409 Conflict when its resourceVersion is no longer the stored one."""
        target = resource.path(namespace=_namespace(body), name=_name(body))
        return self._call(
            Request("PUT", query(target, options.parameters()), encode(body)), deadline
        )

    def apply(
        self,
        resource: Resource,
        body: JsonObject,
        *,
        options: WriteOptions = DEFAULT_WRITE,
        deadline: Deadline | None = None,
    ) -> JsonObject:
        """Server-side apply of all the manager's fields; those of its previous apply that are left out are removed."""
        parameters = options.parameters()
        if options.force:
            parameters["force"] = "true"
        target = resource.path(namespace=_namespace(body), name=_name(body))
        request = Request(
            "PATCH", query(target, parameters), encode(body), APPLY, is_idempotent=True
        )
        return self._call(request, deadline)

    def merge_patch(
        self,
        resource: Resource,
        body: JsonObject,
        *,
        options: WriteOptions = DEFAULT_WRITE,
        deadline: Deadline | None = None,
    ) -> JsonObject:
        """JSON merge patch of the object that ``body.metadata`` names; null removes, lists are replaced."""
        target = resource.path(namespace=_namespace(body), name=_name(body))
        request = Request("PATCH", query(target, options.parameters()), encode(body), MERGE_PATCH)
        return self._call(request, deadline)

    def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str = "",
        preconditions: Preconditions = ANY_STATE,
        deadline: Deadline | None = None,
    ) -> None:
        """Delete one object; 404 when it does not exist, 409 when the preconditions do not hold."""
        target = resource.path(namespace=namespace, name=name)
        body = encode(preconditions.body())
        self._transport.exchange(Request("DELETE", target, body), deadline)

    def _list_pages(
        self, path: str, selector: Selector, deadline: Deadline | None
    ) -> ObjectList | None:
        parameters = {**selector.parameters(), "limit": str(PAGE_SIZE)}
        items: list[JsonObject] = []
        while True:
            try:
                page = self._call(Request("GET", query(path, parameters)), deadline)
            except ApiError as error:
                if error.status == 410:
                    return None
                raise
            metadata = page.get("metadata") or {}
            items += page.get("items") or []
            token = metadata.get("continue")
            if not token:
                return ObjectList(items, metadata.get("resourceVersion") or "")
            parameters["continue"] = token

    def _call(self, request: Request, deadline: Deadline | None) -> JsonObject:
        return decode(self._transport.exchange(request, deadline), request)


def encode(body: JsonObject) -> bytes:
    """Compact JSON."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def decode(body: bytes, request: Request) -> JsonObject:
    """The JSON object of an answer; raises TransportError when it is none."""
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise TransportError(f"{request.method} {request.target}: not JSON: {error}") from error
    if not isinstance(answer, dict):
        raise TransportError(f"{request.method} {request.target}: not a JSON object")
    return answer


def query(path: str, parameters: dict[str, str]) -> str:
    """``path`` with its query string."""
    return f"{path}?{urlencode(parameters, quote_via=quote)}" if parameters else path


def _name(body: JsonObject) -> str:
    name = (body.get("metadata") or {}).get("name")
    if not name:
        raise ApiError("the object has no name", status=400, api_reason="BadRequest")
    return str(name)


def _namespace(body: JsonObject) -> str:
    return str((body.get("metadata") or {}).get("namespace") or "")
