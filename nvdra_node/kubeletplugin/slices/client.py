"""The API server as ``publisher`` needs it: this driver's ResourceSlices on this node, and the Node.

Thin: picks selectors, field manager and preconditions, and turns versions around. All errors are ApiError.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from nvdra_core.errors import ApiError
from nvdra_core.kube import permission
from nvdra_core.kube.dra import DraApi
from nvdra_core.kube.reflector import ListerWatcher
from nvdra_core.kube.resources import (
    NODES,
    ObjectList,
    Preconditions,
    Selector,
    WriteOptions,
)
from nvdra_core.runtime.clock import Deadline
from nvdra_node.kubeletplugin.slices.layout import JsonObject

_GIT_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(-(?:alpha|beta|rc)(?![a-zA-Z-]))?")
"""Of what may follow, only Kubernetes' own words for a pre-release count; vendors add theirs (``-eks-1a2b``)."""


class Slices(Protocol):
    """What ``publisher`` asks for. Objects are resource.k8s.io/v1."""

    def node_uid(self, deadline: Deadline) -> str:
        """UID of the Node object. Raises ApiError 404 when the kubelet has not registered it yet."""

    def server_version(self, deadline: Deadline) -> tuple[int, int]:
        """Major and minor version of the API server."""

    def list(self, deadline: Deadline) -> ObjectList:
        """All slices of the driver on the node, consistently."""

    def create(self, body: JsonObject, deadline: Deadline, *, dry_run: bool = False) -> JsonObject:
        """What was stored, or would have been."""

    def update(self, body: JsonObject, deadline: Deadline) -> JsonObject:
        """What was stored. Raises ApiError 409 when it changed meanwhile."""

    def delete(self, obj: JsonObject, deadline: Deadline) -> None:
        """Delete exactly this state of a slice; fine when it is gone. Raises ApiError 409 when it changed."""

    def source(self) -> ListerWatcher:
        """All slices of the driver on the node, for a Reflector."""


class KubeSlices:
    """See Slices."""

    def __init__(self, api: DraApi, driver: str, node: str) -> None:
        self._api = api
        self._node = node
        self._selector = Selector(fields=f"spec.driver={driver},spec.nodeName={node}")
        self._manager = f"nvdra-{driver}"

    def node_uid(self, deadline: Deadline) -> str:
        """See Slices."""
        try:
            node = self._api.client.get(NODES, self._node, deadline=deadline)
        except ApiError as error:
            raise permission.with_remedy(error, self._node) from error
        return str(node["metadata"]["uid"])

    def server_version(self, deadline: Deadline) -> tuple[int, int]:
        """See Slices."""
        return parse_version(self._api.client.get_path("/version", deadline=deadline))

    def list(self, deadline: Deadline) -> ObjectList:
        """See Slices."""
        return self._api.list_slices(self._selector, deadline=deadline)

    def create(self, body: JsonObject, deadline: Deadline, *, dry_run: bool = False) -> JsonObject:
        """See Slices."""
        options = WriteOptions(field_manager=self._manager, dry_run=dry_run)
        try:
            return self._api.create_slice(body, options=options, deadline=deadline)
        except ApiError as error:
            raise permission.with_remedy(error, self._node) from error

    def update(self, body: JsonObject, deadline: Deadline) -> JsonObject:
        """See Slices."""
        options = WriteOptions(field_manager=self._manager)
        return self._api.update_slice(body, options=options, deadline=deadline)

    def delete(self, obj: JsonObject, deadline: Deadline) -> None:
        """See Slices."""
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
        """See Slices."""
        return self._api.slice_source(self._selector)


def withdraw(slices: Slices, deadline: Deadline) -> int:
    """Delete all slices of the driver on the node; their number. Raises ApiError.

    Those that go meanwhile are fine: the kubelet deletes them itself half a minute after the plugin has ended.
    """
    found = slices.list(deadline).items
    for obj in found:
        slices.delete(obj, deadline)
    return len(found)


def parse_version(answer: dict[str, Any]) -> tuple[int, int]:
    """Major and minor of ``/version``; a pre-release of x.y.0 is not yet x.y. Raises ApiError."""
    text = str(answer.get("gitVersion"))
    match = _GIT_VERSION.match(text)
    if match is None:
        raise ApiError(f"the API server's version {text[:40]!r} is not known", status=0)
    major, minor, patch = (int(match[group]) for group in (1, 2, 3))
    is_before = bool(match[4]) and patch == 0 and minor > 0
    return major, minor - 1 if is_before else minor
