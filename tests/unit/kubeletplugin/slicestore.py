"""A tiny store of slices for pure tests: carries changes out one by one and shows each state in between."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from nvdra_node.kubeletplugin.slices import diff
from nvdra_node.kubeletplugin.slices.diff import Target

TARGET = Target(driver="gpu.nvidia.com", node="node-1", node_uid="node-uid")


class SliceStore:
    """Objects by name, as an API server keeps them."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self._made = 0

    def steps(self, changes: diff.Changes) -> Iterator[None]:
        """Carry out one write after the other."""
        for _, body in changes.update:
            self._put(body)
            yield
        for _, body in changes.create:
            self._made += 1
            made = copy.deepcopy(body)
            name = made["metadata"].pop("generateName") + f"{self._made:05d}"
            made["metadata"] |= {"name": name, "uid": f"uid-{self._made}"}
            self._put(made)
            yield
        for body in changes.delete:
            del self.objects[body["metadata"]["name"]]
            yield

    def publish(self, parts: tuple[dict[str, Any], ...], target: Target = TARGET) -> diff.Changes:
        """Diff and carry out all of it."""
        changes = diff.diff(target, parts, self.objects.values())
        for _ in self.steps(changes):
            pass
        return changes

    def _put(self, body: dict[str, Any]) -> None:
        self.objects[body["metadata"]["name"]] = copy.deepcopy(body)

    def pool(self) -> list[str] | None:
        """Device names as a consumer sees them; None while the pool is incomplete or wrong."""
        slices = [self.objects[name]["spec"] for name in sorted(self.objects)]
        newest = max((s["pool"]["generation"] for s in slices), default=0)
        slices = [s for s in slices if s["pool"]["generation"] == newest]
        if not slices or any(s["pool"]["resourceSliceCount"] != len(slices) for s in slices):
            return None
        names = [device["name"] for s in slices for device in s.get("devices", ())]
        assert len(set(names)) == len(names)
        return names
