"""The device kinds and effects of this release. A new kind or effect is a line here."""

from __future__ import annotations

from pathlib import Path

import msgspec

from nvdra_node.gpu.effects.base import EffectHandler
from nvdra_node.gpu.effects.debts import DebtStore
from nvdra_node.gpu.effects.timeslice import TimeSlices
from nvdra_node.gpu.inventory.rescan import Rescanner
from nvdra_node.gpu.kinds.base import DeviceKind
from nvdra_node.gpu.kinds.full import FullGpus
from nvdra_node.gpu.kinds.nodes import DeviceNodes
from nvdra_node.host.host import Host


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """What ``GpuDriver`` dispatches to."""

    kinds: tuple[DeviceKind, ...]
    """In the order of publication."""
    effects: tuple[EffectHandler, ...]


def build(host: Host, source: Rescanner, debts: DebtStore, hook: Path) -> Registry:
    """All kinds and effects. ``hook``: nvidia-cdi-hook as the container runtime sees it."""
    nodes = DeviceNodes(host.sysfs, host.roots.dev, hook)
    return Registry(
        kinds=(FullGpus(source, host.sysfs, nodes),),
        effects=(TimeSlices(host, debts, source),),
    )
