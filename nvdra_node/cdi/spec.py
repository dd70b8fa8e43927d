"""Container edits -> the bytes of a claim's CDI file. Pure. Used by ``store``, and by ``nvidia`` for the common part.

JSON throughout: it is valid YAML, ten times as fast to write, and equal input gives equal bytes. What all claims share
is rendered once (``Common``); per claim only the devices are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from nvdra_node.cdi.edits import ClaimSpec, ContainerEdits, DeviceNode, Hook, Mount

BASE_VERSION = (0, 5, 0)
"""Device names that begin with a digit (claim UIDs do) need CDI 0.5.0."""
GIDS_VERSION = (0, 7, 0)
"""``additionalGids`` need CDI 0.7.0."""

Version = tuple[int, ...]


class Common(msgspec.Struct, frozen=True):
    """The ``containerEdits`` of a whole spec file, rendered."""

    edits: bytes
    version: Version = BASE_VERSION


WITHOUT_DRIVER = Common(b'{"env":["NVIDIA_VISIBLE_DEVICES=void"]}')
"""For claims whose containers get no driver files; ``void`` keeps NVIDIA's runtime hook from adding its own."""


def to_json(spec: ClaimSpec) -> dict[str, Any]:
    """What a record keeps of a claim's spec: enough to render the file again."""
    devices = [
        {"name": device.name, "containerEdits": edits_json(device.edits)} for device in spec.devices
    ]
    return {"devices": devices, "driverFiles": spec.with_driver_files}


def render(kind: str, cdi: Mapping[str, Any], common: Common) -> bytes:
    """The file of one claim. ``cdi`` is what ``to_json`` made."""
    devices = cdi["devices"]
    version = max(common.version, _version_for(devices))
    head = _encode({"cdiVersion": ".".join(map(str, version)), "kind": kind, "devices": devices})
    return b'%s,"containerEdits":%s}\n' % (head[:-1].encode(), common.edits)


def edits_json(edits: ContainerEdits) -> dict[str, Any]:
    """``containerEdits`` as the CDI specification writes them; empty members are left out."""
    return _filled(
        env=list(edits.env),
        deviceNodes=[_node_json(node) for node in edits.device_nodes],
        mounts=[_mount_json(mount) for mount in edits.mounts],
        hooks=[_hook_json(hook) for hook in edits.hooks],
        additionalGids=list(edits.additional_gids),
    )


def parse_version(text: str) -> Version:
    """``0.7.0`` -> (0, 7, 0). Raises ValueError."""
    return tuple(int(part) for part in text.split("."))


_encode = json.JSONEncoder(separators=(",", ":")).encode


def _version_for(devices: Iterable[Mapping[str, Any]]) -> Version:
    if any("additionalGids" in device["containerEdits"] for device in devices):
        return GIDS_VERSION
    return BASE_VERSION


def _node_json(node: DeviceNode) -> dict[str, Any]:
    body = {"path": node.path}
    if node.host_path is not None and node.host_path != node.path:
        body["hostPath"] = node.host_path
    more = {
        "type": node.type,
        "major": node.major,
        "minor": node.minor,
        "fileMode": node.file_mode,
        "permissions": node.permissions,
        "gid": node.gid,
    }
    return body | {key: value for key, value in more.items() if value is not None}


def _mount_json(mount: Mount) -> dict[str, Any]:
    return _filled(
        hostPath=mount.host_path, containerPath=mount.container_path, options=list(mount.options)
    )


def _hook_json(hook: Hook) -> dict[str, Any]:
    return _filled(
        hookName=hook.hook_name, path=hook.path, args=list(hook.args), env=list(hook.env)
    )


def _filled(**members: Any) -> dict[str, Any]:
    return {key: value for key, value in members.items() if value}
