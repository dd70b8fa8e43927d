"""API client of ``publisher``: this driver's ResourceSlices on this node, and the Node. Raises ApiError."""

from __future__ import annotations

import re
from typing import Any

from nvdra_core.errors import ApiError
from nvdra_core.kube.reflector import ListerWatcher
from nvdra_core.kube.resources import (
    NODES,
    ObjectList,
    Preconditions,
    Selector,
    WriteOptions,
)
from nvdra_core.runtime.clock import Deadline
from nvdra_node.kube import permission
from nvdra_node.kube.dra import DraApi
from nvdra_node.kubeletplugin.slices.layout import JsonObject

_GIT_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(-(?:alpha|beta|rc)(?![a-zA-Z-]))?")
"""Only Kubernetes' own pre-release suffixes count; vendors add others (``-eks-1a2b``)."""


class SliceClient:
    """See the module. Objects are resource.k8s.io/v1."""

    def __init__(self, api: DraApi, driver: str, node: str) -> None:
        self._api = api
        self._node = node
        self._selector = Selector(fields=f"spec.driver={driver},spec.nodeName={node}")
        self._manager = f"nvdra-{driver}"

    def node_uid(self, deadline: Deadline) -> str:
        """UID of the Node object. Raises ApiError 404 before the kubelet has registered it."""
        try:
            node = self._api.client.get(NODES, self._node, deadline=deadline)
        except ApiError as error:
            raise permission.with_remedy(error, self._node) from error
        return str(node["metadata"]["uid"])

    def server_version(self, deadline: Deadline) -> tuple[int, int]:
        """Major and minor version of the API server."""
        return parse_version(self._api.client.get_path("/version", deadline=deadline))

    def list(self, deadline: Deadline) -> ObjectList:
        """All slices of the driver on the node, from one consistent list."""
        return self._api.list_slices(self._selector, deadline=deadline)

    def create(self, body: JsonObject, deadline: Deadline, *, dry_run: bool = False) -> JsonObject:
        """The object as stored, or as a dry run would store it."""
        options = WriteOptions(field_manager=self._manager, dry_run=dry_run)
        try:
            return self._api.create_slice(body, options=options, deadline=deadline)
        except ApiError as error:
            raise permission.with_remedy(error, self._node) from error

    def update(self, body: JsonObject, deadline: Deadline) -> JsonObject:
        """The object as stored. Raises ApiError 409 when it changed meanwhile."""
        options = WriteOptions(field_manager=self._manager)
        return self._api.update_slice(body, options=options, deadline=deadline)

    def delete(self, obj: JsonObject, deadline: Deadline) -> None:
        """Delete a slice in this state; not found is success. Raises ApiError 409 when it changed."""
        metadata = obj["metadata"]
        state = Preconditions(
            uid=metadata.get("uid", ""), resource_version=metadata.get("resourceVersion", "")
        )
        try:
            self._api.delete_slice(metadata["name"], preconditions=state, deadline=deadline)
        except ApiError as error:
            if error.status != 404 or error.api_reason != "NotFound":
                raise

    def source(self) -> ListerWatcher:
        """All slices of the driver on the node, for a Reflector."""
        return self._api.slice_source(self._selector)


def withdraw(slices: SliceClient, deadline: Deadline) -> int:
    """Delete all slices of the driver on the node; returns their number. Raises ApiError."""
    # The kubelet deletes them too, 30 s after the plugin has ended.
    found = slices.list(deadline).items
    for obj in found:
        slices.delete(obj, deadline)
    return len(found)


def parse_version(response: dict[str, Any]) -> tuple[int, int]:
    """Major and minor of a ``/version`` response; a pre-release of x.y.0 counts as x.(y-1). Raises ApiError."""
    text = str(response.get("gitVersion"))
    match = _GIT_VERSION.match(text)
    if match is None:
        raise ApiError(f"cannot parse the API server's version {text[:40]!r}", status=0)
    major, minor, patch = (int(match[group]) for group in (1, 2, 3))
    is_prerelease = bool(match[4]) and patch == 0 and minor > 0
    return major, minor - 1 if is_prerelease else minor
