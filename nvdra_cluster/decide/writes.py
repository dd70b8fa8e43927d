"""Writes to the API as data: what the decisions hand to ``control``, which carries them out. Pure.

Each field has one writer, the leading controller, so no write but those of finalizers (a list that
others write too) carries a resourceVersion. Patches and deletions carry the UID, so that they never
hit a namesake.
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
    """Make an object; done already is done."""

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
    """JSON merge patch, of the subresource when ``resource`` names one. With ``metadata.uid`` in the
    patch it applies to that object only. Gone is done.
    """

    resource: Resource
    namespace: str
    name: str
    patch: Body
    is_urgent: bool = True
    """False: it may wait a moment for what else is to be changed in the same object."""

    @property
    def key(self) -> tuple[str, str, str]:
        """(plural, namespace, name)."""
        return (self.resource.plural, self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the object of that UID; gone is done."""

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
