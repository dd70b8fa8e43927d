"""Container edits of one GPU: its device node, its DRM nodes, their links. Pure. Called by ``plan.finish``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from nvdra_node.cdi.edits import ContainerEdits, DeviceNode, Hook, nvidia_hook
from nvdra_node.host.ports import NodeStat

_WORLD_READ_WRITE = 0o006


class GpuNodes(msgspec.Struct, frozen=True, kw_only=True):
    """The device nodes of one GPU as they are in /dev."""

    gpu: NodeStat
    drm: Mapping[str, NodeStat]
    """By name (``card1``, ``renderD128``)."""


class Placed(Protocol):
    """Where a GPU is: ``model.Gpu``, or ``given.Given``."""

    @property
    def minor(self) -> int:
        """Of its device node."""

    @property
    def pci_address(self) -> str:
        """``dddd:bb:dd.f``."""


class EditSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How paths of the host read in a CDI file."""

    dev: Path
    """/dev of the driver's root, as the container runtime sees it."""
    hook: Path


def gpu_path(gpu: Placed) -> str:
    """The device node of a full GPU."""
    return f"/dev/nvidia{gpu.minor}"


def drm_path(name: str) -> str:
    """The device node of an entry in ``/sys/bus/pci/devices/<address>/drm``."""
    return f"/dev/dri/{name}"


def full_gpu(gpu: Placed, nodes: GpuNodes, settings: EditSettings) -> ContainerEdits:
    """Edits of a full GPU. The driver's libraries are not here: all claims share them (``cdi.nvidia``)."""
    device_nodes = [_node(gpu_path(gpu), nodes.gpu, settings)]
    device_nodes += [_node(drm_path(name), stat, settings) for name, stat in nodes.drm.items()]
    links = [
        f"../{name}::/dev/dri/by-path/pci-{gpu.pci_address}-{kind}"
        for name in nodes.drm
        if (kind := _drm_kind(name))
    ]
    # A process that is not root opens such a node only through the node's group.
    stats = (nodes.gpu, *nodes.drm.values())
    gids = {s.gid for s in stats if s.gid and s.mode & _WORLD_READ_WRITE != _WORLD_READ_WRITE}
    return ContainerEdits(
        device_nodes=tuple(device_nodes),
        hooks=(_link_hook(links, settings.hook),) if links else (),
        additional_gids=tuple(sorted(gids)),
    )


def _node(path: str, stat: NodeStat, settings: EditSettings) -> DeviceNode:
    host_path = f"{settings.dev}/{path.removeprefix('/dev/')}"
    return DeviceNode(
        path=path,
        host_path=host_path if host_path != path else None,
        major=stat.major,
        minor=stat.minor,
        file_mode=stat.mode,
        gid=stat.gid or None,
    )


def _drm_kind(name: str) -> str:
    if name.startswith("renderD"):
        return "render"
    return "card" if name.startswith("card") else ""


def _link_hook(links: list[str], hook: Path) -> Hook:
    arguments = [part for link in links for part in ("--link", link)]
    return nvidia_hook(str(hook), "create-symlinks", *arguments)
