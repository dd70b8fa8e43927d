"""The first look at the GPUs, begun before the rest of the service is imported. Called by ``cli``, before ``gpu``.

It takes longest of all that a start does, mostly in a process of its own, and needs neither gRPC nor TLS, whose imports
take as long. So this module must import neither of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, SystemClock
from nvdra_core.runtime.workers import Workers
from nvdra_node import config
from nvdra_node.app.dependencies import roots_of
from nvdra_node.app.environment import SystemdEnvironment
from nvdra_node.gpu.inventory.rescan import Rescanner, RescanSettings
from nvdra_node.gpu.inventory.scan import Limits
from nvdra_node.host.host import Host, open_host

_LOG = log.get(__name__)
STOP_S = 1.0
"""For a look that goes on; one that hangs is ended by closing NVML."""


class FirstLook(msgspec.Struct, frozen=True, kw_only=True):
    """What was begun, for the service to go on with."""

    clock: Clock
    host: Host
    workers: Workers
    watch: Rescanner

    def stop(self) -> None:
        """End the looks and the NVML child; may be called again."""
        self.watch.stop(STOP_S)
        self.host.close()


@contextmanager
def begun(settings: config.NodeConfig, system: SystemdEnvironment) -> Iterator[FirstLook]:
    """Begin to log and to look; all of it has ended afterwards."""
    log.configure(
        verbosity=settings.verbosity, style=settings.log_format, journal=system.is_journal
    )
    _LOG.info("starting", settings=config.describe(settings))
    clock = SystemClock()
    host = open_host(roots_of(settings))
    workers = Workers(clock)
    watch = Rescanner(host, clock, watch_settings(settings), workers)
    look = FirstLook(clock=clock, host=host, workers=workers, watch=watch)
    watch.start()
    try:
        yield look
    finally:
        workers.stopping.set()
        look.stop()


def watch_settings(settings: config.NodeConfig) -> RescanSettings:
    """How often to look at the GPUs."""
    return RescanSettings(
        rescan_s=settings.rescan_interval_s,
        driver_poll_s=settings.driver_poll_s,
        limits=Limits(
            gpu_s=settings.nvml_timeout_s,
            fabric=not settings.feature_gates.get("FabricManagerPartitioning", False),
        ),
    )
