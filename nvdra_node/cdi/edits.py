"""Container edits as in CDI files (CNCF CDI specification 0.5 to 0.7). Made by drivers, rendered by ``spec``."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from nvdra_core.openstruct import OpenStruct


class DeviceNode(OpenStruct, frozen=True, kw_only=True):
    """A device node to create in the container. ``host_path`` None: the same path."""

    path: str
    host_path: str | None = None
    type: str = "c"
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    permissions: str = "rwm"
    gid: int | None = None


class Mount(OpenStruct, frozen=True, kw_only=True):
    """A bind mount from the host into the container."""

    host_path: str
    container_path: str
    options: tuple[str, ...] = ("ro", "nosuid", "nodev", "rbind", "rprivate")


class Hook(OpenStruct, frozen=True, kw_only=True):
    """An OCI hook; ``args`` begin with arg0."""

    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


class ContainerEdits(OpenStruct, frozen=True, kw_only=True):
    """All edits of one device, or of all devices of a spec."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[Hook, ...] = ()
    additional_gids: tuple[int, ...] = ()


class CdiDevice(OpenStruct, frozen=True, kw_only=True):
    """One named device of a claim's spec; ``name`` is unique in the spec (claim UID + device)."""

    name: str
    edits: ContainerEdits = msgspec.field(name="containerEdits")


class ClaimFile(OpenStruct, frozen=True, kw_only=True):
    """A file of a claim beside its CDI file, which the CDI file mounts into containers (device metadata)."""

    name: str
    """Unique in the claim."""
    content: str = ""
    """Empty in records."""


class ClaimSpec(OpenStruct, frozen=True, kw_only=True):
    """A claim's CDI file without the edits that all claims share, and the claim's other files."""

    devices: tuple[CdiDevice, ...]
    with_driver_files: bool = msgspec.field(default=True, name="driverFiles")
    """False: without the driver's common edits (passthrough)."""
    files: tuple[ClaimFile, ...] = ()
    """Most claims have none."""

    def without_contents(self) -> ClaimSpec:
        """As records keep it: files by name only."""
        return replace(self, files=tuple(ClaimFile(name=file.name) for file in self.files))


def nvidia_hook(program: str, *arguments: str) -> Hook:
    """A hook that runs a command of NVIDIA's container hook before the container's program starts.

    ``program`` is the path of ``nvidia-cdi-hook`` or of ``nvidia-ctk``, which has the same commands one level down.
    """
    name = program.rpartition("/")[2]
    return Hook(
        hook_name="createContainer",
        path=program,
        args=(name, *(("hook",) if name == "nvidia-ctk" else ()), *arguments),
        env=("NVIDIA_CTK_DEBUG=false",),
    )
