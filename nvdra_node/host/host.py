"""All doors to this machine in one value. Built by ``cli`` with ``open_host``, by tests with ``fake.fake_host``."""

from __future__ import annotations

import msgspec

from nvdra_node.host import driverroot
from nvdra_node.host.commands import SystemCommands
from nvdra_node.host.nvml import ChildNvml, ChildSettings
from nvdra_node.host.ports import Commands, HostRoots, Nvml, Sysfs
from nvdra_node.host.sysfs import HostSysfs


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A machine, real or fake."""

    roots: HostRoots
    nvml: Nvml
    sysfs: Sysfs
    commands: Commands

    def close(self) -> None:
        """End what was started on the way: the NVML child, and programs that still run."""
        self.nvml.close()
        self.commands.close()


def open_host(roots: HostRoots, nvml: ChildSettings | None = None) -> Host:
    """The real machine below ``roots``. Touches nothing yet; the first NVML call starts its child."""
    return Host(
        roots=roots,
        nvml=ChildNvml(lambda: driverroot.library(roots.driver), nvml),
        sysfs=HostSysfs(roots),
        commands=SystemCommands(),
    )
