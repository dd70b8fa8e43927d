"""The kinds that the fake API server stores, and how a URL path names them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
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


CORE = {"group": "", "versions": ("v1",)}
KINDS: tuple[Kind, ...] = (
    Kind(
        group="", versions=("v1",), plural="nodes", kind="Node", namespaced=False, has_status=True,
        counts_generation=False, fields=("spec.unschedulable",),
    ),
    Kind(
        group="", versions=("v1",), plural="namespaces", kind="Namespace", namespaced=False,
        has_status=True, counts_generation=False, fields=("status.phase",),
    ),
    Kind(
        group="", versions=("v1",), plural="pods", kind="Pod", namespaced=True, has_status=True,
        fields=("spec.nodeName", "status.phase", "spec.schedulerName"),
    ),
    Kind(
        group="", versions=("v1",), plural="events", kind="Event", namespaced=True,
        counts_generation=False,
        fields=(
            "involvedObject.kind", "involvedObject.namespace", "involvedObject.name",
            "involvedObject.uid", "reason", "type",
        ),
    ),
    Kind(
        group="", versions=("v1",), plural="configmaps", kind="ConfigMap", namespaced=True,
        counts_generation=False,
    ),
    Kind(
        group="", versions=("v1",), plural="secrets", kind="Secret", namespaced=True,
        counts_generation=False, fields=("type",),
    ),
    Kind(
        group="", versions=("v1",), plural="serviceaccounts", kind="ServiceAccount",
        namespaced=True, counts_generation=False,
    ),
    Kind(
        group="events.k8s.io", versions=("v1",), plural="events", kind="Event", namespaced=True,
        counts_generation=False,
    ),
    Kind(
        group="coordination.k8s.io", versions=("v1",), plural="leases", kind="Lease",
        namespaced=True, counts_generation=False,
    ),
    Kind(
        group=RESOURCE_GROUP, versions=RESOURCE_VERSIONS, plural="resourceslices",
        kind="ResourceSlice", namespaced=False, fields=("spec.driver", "spec.nodeName"),
    ),
    Kind(
        group=RESOURCE_GROUP, versions=RESOURCE_VERSIONS, plural="resourceclaims",
        kind="ResourceClaim", namespaced=True, has_status=True, counts_generation=False,
    ),
    Kind(
        group=RESOURCE_GROUP, versions=RESOURCE_VERSIONS, plural="resourceclaimtemplates",
        kind="ResourceClaimTemplate", namespaced=True, counts_generation=False,
    ),
    Kind(
        group=RESOURCE_GROUP, versions=RESOURCE_VERSIONS, plural="deviceclasses",
        kind="DeviceClass", namespaced=False,
    ),
    Kind(
        group="resource.nvidia.com", versions=("v1beta1",), plural="computedomains",
        kind="ComputeDomain", namespaced=True, has_status=True,
    ),
    Kind(
        group="resource.nvidia.com", versions=("v1beta1",), plural="computedomaincliques",
        kind="ComputeDomainClique", namespaced=True,
    ),
    Kind(
        group="fabric.nvdra.io", versions=("v1alpha1",), plural="fabricnodes", kind="FabricNode",
        namespaced=False, has_status=True,
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
            group, version, rest = "", parts[1], parts[2:]
        elif parts[0] == "apis" and len(parts) > 3:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            return nowhere
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] != "status":
            namespace, rest = rest[1], rest[2:]
        kind = self.kinds.get((group, rest[0]))
        if kind is None or version not in kind.versions or len(rest) > 3:
            return nowhere
        if bool(namespace) and not kind.namespaced:
            return nowhere
        name = rest[1] if len(rest) > 1 else ""
        subresource = rest[2] if len(rest) > 2 else ""
        return Route(path, query, kind, version, namespace, name, subresource)
