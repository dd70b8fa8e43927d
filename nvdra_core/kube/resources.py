"""API kinds, their URL paths, selectors and write options. Pure.

``SLICES.path(name="x")`` is ``/apis/resource.k8s.io/v1/resourceslices/x``. Names that could change the meaning of the
path (a slash, a per cent sign, ``.`` and ``..``) are refused before anything is sent.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from nvdra_core.errors import ApiError

JsonObject = dict[str, Any]
"""A Kubernetes object as it is on the wire: unknown fields survive a read, a change and a write."""

RESOURCE_GROUP = "resource.k8s.io"


class Resource(msgspec.Struct, frozen=True):
    """A kind of object in one API version; ``group`` is empty for the core group."""

    group: str
    version: str
    plural: str
    namespaced: bool = True
    subresource: str = ""

    def sub(self, subresource: str) -> Resource:
        """The subresource of the same objects, e.g. ``status``."""
        return replace(self, subresource=subresource)

    def at(self, version: str) -> Resource:
        """The same objects in another API version of the group."""
        return self if version == self.version else replace(self, version=version)

    @property
    def api_version(self) -> str:
        """``group/version`` as objects carry it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, *, namespace: str = "", name: str = "") -> str:
        """The URL path; an empty namespace of a namespaced resource means all namespaces (list and watch only).

        Raises ApiError (400) when a name cannot be part of a path.
        """
        parts = ["/apis", self.group] if self.group else ["/api"]
        parts.append(self.version)
        if self.namespaced and namespace:
            parts += ["namespaces", path_segment(namespace)]
        parts.append(self.plural)
        if name:
            parts.append(path_segment(name))
            if self.subresource:
                parts.append(self.subresource)
        return "/".join(parts)


def path_segment(name: str) -> str:
    """``name`` quoted for a path; raises ApiError (400) for names that Kubernetes itself refuses in paths."""
    if name.isascii() and name.replace("-", "a").replace(".", "a").isalnum() and name[0] != ".":
        return name
    if name in {"", ".", ".."} or "/" in name or "%" in name:
        raise ApiError(
            f"{name!r} cannot be the name of an API object", status=400, api_reason="BadRequest"
        )
    return quote(name, safe=":")


NODES = Resource("", "v1", "nodes", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", namespaced=False)
PODS = Resource("", "v1", "pods")
EVENTS = Resource("", "v1", "events")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts")
SLICES = Resource(RESOURCE_GROUP, "v1", "resourceslices", namespaced=False)
CLAIMS = Resource(RESOURCE_GROUP, "v1", "resourceclaims")
DEVICE_CLASSES = Resource(RESOURCE_GROUP, "v1", "deviceclasses", namespaced=False)
FABRIC_NODES = Resource("fabric.nvdra.io", "v1alpha1", "fabricnodes", namespaced=False)
LEASES = Resource("coordination.k8s.io", "v1", "leases")


class Selector(msgspec.Struct, frozen=True):
    """Which objects of a list or watch; both in the API's own syntax, empty means all."""

    fields: str = ""
    labels: str = ""

    def parameters(self) -> dict[str, str]:
        """As query parameters."""
        chosen: dict[str, str] = {}
        if self.fields:
            chosen["fieldSelector"] = self.fields
        if self.labels:
            chosen["labelSelector"] = self.labels
        return chosen


EVERYTHING = Selector()


class WriteOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to write.

    ``field_validation`` is ``Strict``, ``Warn`` or ``Ignore`` (empty: the server's default, Warn). ``force`` lets an
    apply take fields over from other managers.
    """

    field_manager: str = "nvdra"
    field_validation: str = ""
    force: bool = False
    dry_run: bool = False

    def parameters(self) -> dict[str, str]:
        """As query parameters, without ``force``, which only an apply may send."""
        chosen = {"fieldManager": self.field_manager} if self.field_manager else {}
        if self.field_validation:
            chosen["fieldValidation"] = self.field_validation
        if self.dry_run:
            chosen["dryRun"] = "All"
        return chosen


class Preconditions(msgspec.Struct, frozen=True, kw_only=True):
    """A delete happens only when the stored object still has these; empty values are not checked."""

    uid: str = ""
    resource_version: str = ""

    def body(self) -> JsonObject:
        """As DeleteOptions."""
        wanted = {"uid": self.uid, "resourceVersion": self.resource_version}
        chosen = {key: value for key, value in wanted.items() if value}
        options: JsonObject = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if chosen:
            options["preconditions"] = chosen
        return options


class ObjectList(msgspec.Struct, frozen=True):
    """The answer to a list: one consistent state of the whole selection, and its version to watch from."""

    items: list[JsonObject]
    resource_version: str
