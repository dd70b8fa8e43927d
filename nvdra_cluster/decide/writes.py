"""Writes to the API as data, returned by decisions and sent by ``control.writer``. Pure.

Each field has one writer, the leading controller, so only writes of finalizers (a list with other writers) carry a
resourceVersion. Patches and deletions carry the UID, so they never hit a new object of the same name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nvdra_core.kube.resources import RESOURCE_GROUP, Resource

DOMAINS = Resource("resource.nvidia.com", "v1beta1", "computedomains")
CLIQUES = Resource("resource.nvidia.com", "v1beta1", "computedomaincliques")
FABRIC_NODES = Resource("fabric.nvdra.io", "v1alpha1", "fabricnodes", namespaced=False)
TEMPLATES = Resource(RESOURCE_GROUP, "v1", "resourceclaimtemplates")
EVENTS = Resource("", "v1", "events")
CONFIG_MAPS = Resource("", "v1", "configmaps")

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Create:
    """Create an object."""

    resource: Resource
    body: Body
    is_urgent = True

    @property
    def key(self) -> tuple[str, str, str]:
        """(plural, namespace, name)."""
        metadata = self.body["metadata"]
        return (self.resource.plural, metadata.get("namespace", ""), metadata["name"])


@dataclass(frozen=True, slots=True)
class Merge:
    """JSON merge patch, of the subresource if ``resource`` names one; a missing object counts as success. With
    ``metadata.uid`` it applies to that object only.
    """

    resource: Resource
    namespace: str
    name: str
    patch: Body
    is_urgent: bool = True
    """False: may be debounced with further changes of the same object."""

    @property
    def key(self) -> tuple[str, str, str]:
        """(plural, namespace, name)."""
        return (self.resource.plural, self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the object of that UID; a missing object counts as success."""

    resource: Resource
    namespace: str
    name: str
    uid: str
    is_urgent = True

    @property
    def key(self) -> tuple[str, str, str]:
        """(plural, namespace, name)."""
        return (self.resource.plural, self.namespace, self.name)


Write = Create | Merge | Delete
