"""The kinds that the fake API server stores, and how a URL path names them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, unquote

RESOURCE_GROUP = "resource.k8s.io"
RESOURCE_VERSIONS = ("v1", "v1beta2", "v1beta1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind; ``versions`` are served, the first is preferred and the stored one is ``versions_known[0]``.

    ``fields`` are the field selectors beyond metadata.name and metadata.namespace. ``counts_generation`` says whether
    a change of ``spec`` raises metadata.generation.
    """

    group: str
    versions: tuple[str, ...]
    plural: str
    kind: str
    namespaced: bool
    has_status: bool = False
    counts_generation: bool = True
    fields: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the kind in the store."""
        return (self.group, self.plural)

    def api_version(self, version: str) -> str:
        """``apiVersion`` of its objects."""
        return f"{self.group}/{version}" if self.group else version


def _kind(plural: str, kind: str, group: str = "", version: str = "v1", **more: Any) -> Kind:
    versions = RESOURCE_VERSIONS if group == RESOURCE_GROUP else (version,)
    fields = {"namespaced": True, "counts_generation": False, **more}
    return Kind(group=group, versions=versions, plural=plural, kind=kind, **fields)


INVOLVED = tuple(f"involvedObject.{name}" for name in ("kind", "namespace", "name", "uid"))
NVIDIA, NVDRA = "resource.nvidia.com", "fabric.nvdra.io"
KINDS: tuple[Kind, ...] = (
    _kind("nodes", "Node", namespaced=False, has_status=True),
    _kind("namespaces", "Namespace", namespaced=False, has_status=True),
    _kind("pods", "Pod", has_status=True, counts_generation=True, fields=("spec.nodeName",)),
    _kind("events", "Event", fields=(*INVOLVED, "reason", "type")),
    _kind("configmaps", "ConfigMap"),
    _kind("secrets", "Secret", fields=("type",)),
    _kind("serviceaccounts", "ServiceAccount"),
    _kind("events", "Event", "events.k8s.io"),
    _kind("leases", "Lease", "coordination.k8s.io"),
    _kind(
        "resourceslices", "ResourceSlice", RESOURCE_GROUP, namespaced=False, counts_generation=True,
        fields=("spec.driver", "spec.nodeName"),
    ),
    _kind("resourceclaims", "ResourceClaim", RESOURCE_GROUP, has_status=True),
    _kind("resourceclaimtemplates", "ResourceClaimTemplate", RESOURCE_GROUP),
    _kind("deviceclasses", "DeviceClass", RESOURCE_GROUP, namespaced=False, counts_generation=True),
    _kind(
        "computedomains", "ComputeDomain", NVIDIA, "v1beta1", has_status=True,
        counts_generation=True,
    ),
    _kind("computedomaincliques", "ComputeDomainClique", NVIDIA, "v1beta1", counts_generation=True),
    _kind(
        "fabricnodes", "FabricNode", NVDRA, "v1alpha1", namespaced=False, has_status=True,
        counts_generation=True,
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Route:
    """What a request's target names. ``kind`` None: a path that is not of a stored kind, in ``path``."""

    path: str
    query: dict[str, str]
    kind: Kind | None = None
    version: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""


class Router:
    """Finds the Route of a target; remembers what it found, as benchmarks repeat themselves."""

    CACHE_LIMIT = 20_000

    def __init__(self, resource_versions: tuple[str, ...]) -> None:
        self.kinds: dict[tuple[str, str], Kind] = {}
        for kind in KINDS:
            if kind.group == RESOURCE_GROUP:
                kind = replace(kind, versions=resource_versions)
            self.kinds[kind.key] = kind
        self._cache: dict[str, Route] = {}

    def find(self, target: str) -> Route:
        """The route of ``/path?query``."""
        route = self._cache.get(target)
        if route is None:
            if len(self._cache) >= self.CACHE_LIMIT:
                self._cache.clear()
            route = self._cache[target] = self._parse(target)
        return route

    def serve_versions(self, versions: tuple[str, ...]) -> None:
        """Change which versions of resource.k8s.io are served, as an upgrade of the cluster does."""
        for key, kind in list(self.kinds.items()):
            if kind.group == RESOURCE_GROUP:
                self.kinds[key] = replace(kind, versions=versions)
        self._cache.clear()

    def _parse(self, target: str) -> Route:
        path, _, text = target.partition("?")
        query = dict(parse_qsl(text, keep_blank_values=True))
        parts = [unquote(part) for part in path.strip("/").split("/")]
        nowhere = Route(path, query)
        if parts[0] == "api" and len(parts) > 2:
            group, version, parts_left = "", parts[1], parts[2:]
        elif parts[0] == "apis" and len(parts) > 3:
            group, version, parts_left = parts[1], parts[2], parts[3:]
        else:
            return nowhere
        namespace = ""
        if parts_left[0] == "namespaces" and len(parts_left) > 2 and parts_left[2] != "status":
            namespace, parts_left = parts_left[1], parts_left[2:]
        kind = self.kinds.get((group, parts_left[0]))
        if kind is None or version not in kind.versions or len(parts_left) > 3:
            return nowhere
        if bool(namespace) and not kind.namespaced:
            return nowhere
        name = parts_left[1] if len(parts_left) > 1 else ""
        subresource = parts_left[2] if len(parts_left) > 2 else ""
        return Route(path, query, kind, version, namespace, name, subresource)
