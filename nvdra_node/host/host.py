"""All adapters to this machine in one value. Built by ``app`` with ``open_host``, by tests with ``fake_host``."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec.structs import replace

from nvdra_node.host import driverroot
from nvdra_node.host.commands import SystemCommands
from nvdra_node.host.nvml import ChildNvml, ChildSettings
from nvdra_node.host.ports import Commands, HostRoots, Nvml, Sysfs
from nvdra_node.host.sysfs import HostSysfs


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A machine, real or fake."""

    roots: HostRoots
    nvml: Nvml
    events: Nvml
    """For ``watch_events`` and ``wait_events`` alone, in one process of its own: a wait blocks no other call, and a
    hung call ends no subscription."""
    sysfs: Sysfs
    commands: Commands

    def close(self) -> None:
        """End the NVML processes and running programs."""
        self.close_nvml()
        self.commands.close()

    def close_nvml(self) -> None:
        """End all NVML sessions; the next call opens another."""
        self.nvml.close()
        self.events.close()


def open_host(roots: HostRoots, nvml: ChildSettings | None = None) -> Host:
    """The real machine below ``roots``. Nothing is started before the first call."""
    settings = nvml or ChildSettings()

    def library() -> Path:
        return driverroot.library(roots.driver)

    return Host(
        roots=roots,
        nvml=ChildNvml(library, settings),
        events=ChildNvml(library, replace(settings, max_children=1)),
        sysfs=HostSysfs(roots),
        commands=SystemCommands(),
    )
