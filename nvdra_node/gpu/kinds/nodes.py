"""Device nodes of a physical GPU and their container edits. Used by the kinds whose devices need them.

A GPU has ``/dev/nvidia<minor>`` and DRM nodes. DRM nodes are found by PCI address, as their names change with each load
of the driver. The driver's libraries are not here: all claims share them (``cdi.nvidia``).
"""

from __future__ import annotations

from pathlib import Path

from nvdra_core.errors import HostError, NotReadyError
from nvdra_node.cdi.edits import ContainerEdits, DeviceNode, Hook, nvidia_hook
from nvdra_node.gpu.inventory import causes
from nvdra_node.host.ports import NodeStat, Sysfs

_WORLD_READ_WRITE = 0o006


class DeviceNodes:
    """Reads device nodes and renders their edits."""

    def __init__(self, sysfs: Sysfs, dev: Path, hook: Path) -> None:
        """``dev``: /dev of the driver's root, and ``hook``: nvidia-cdi-hook, as the container runtime sees them."""
        self._sysfs = sysfs
        self._dev = dev
        self._hook = hook

    def gpu_node(self, minor: int) -> NodeStat:
        """/dev/nvidia<minor>. Raises NotReadyError while it does not exist, HostError when it is another device."""
        stat = self._sysfs.device_node(causes.node_path(minor))
        wrong = causes.wrong_node(minor, stat)
        if stat is None:
            raise NotReadyError(wrong, retry_after_s=1.0)
        if wrong:
            raise HostError(wrong)
        return stat

    def edits(self, minor: int, pci_address: str) -> ContainerEdits:
        """Edits of all nodes of a GPU; no DRM nodes without its PCI address. Raises HostError, NotReadyError."""
        node = self.gpu_node(minor)
        names = self._sysfs.drm_nodes(pci_address) if pci_address else ()
        drm = {
            name: stat
            for name in names
            if (stat := self._sysfs.device_node(_drm_path(name))) is not None
        }
        device_nodes = [self._device_node(causes.node_path(minor), node)]
        device_nodes += [self._device_node(_drm_path(name), stat) for name, stat in drm.items()]
        links = [
            f"../{name}::/dev/dri/by-path/pci-{pci_address}-{kind}"
            for name in drm
            if (kind := _drm_kind(name))
        ]
        # A process that is not root opens such a node only through the node's group.
        stats = (node, *drm.values())
        gids = {s.gid for s in stats if s.gid and s.mode & _WORLD_READ_WRITE != _WORLD_READ_WRITE}
        return ContainerEdits(
            device_nodes=tuple(device_nodes),
            hooks=(self._link_hook(links),) if links else (),
            additional_gids=tuple(sorted(gids)),
        )

    def _device_node(self, path: str, stat: NodeStat) -> DeviceNode:
        host_path = f"{self._dev}/{path.removeprefix('/dev/')}"
        return DeviceNode(
            path=path,
            host_path=host_path if host_path != path else None,
            major=stat.major,
            minor=stat.minor,
            file_mode=stat.mode,
            gid=stat.gid or None,
        )

    def _link_hook(self, links: list[str]) -> Hook:
        arguments = [part for link in links for part in ("--link", link)]
        return nvidia_hook(str(self._hook), "create-symlinks", *arguments)


def _drm_path(name: str) -> str:
    """The device node of an entry in ``/sys/bus/pci/devices/<address>/drm``."""
    return f"/dev/dri/{name}"


def _drm_kind(name: str) -> str:
    if name.startswith("renderD"):
        return "render"
    return "card" if name.startswith("card") else ""
