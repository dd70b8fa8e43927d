"""The service for compute-domain.nvidia.com: a kubelet plugin whose devices are IMEX channels. Called by ``cli``.

It does not use NVML and starts no daemon: the node's fabric and IMEX state come from the supervisor.
"""

from __future__ import annotations

from msgspec.structs import replace

from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_core.runtime.service import FunctionComponent, Service, worker_component
from nvdra_core.runtime.systemd import Notifier
from nvdra_core.runtime.workers import Workers
from nvdra_node import config
from nvdra_node.app.channelnumbers import ChannelNumberMonitor
from nvdra_node.app.dependencies import open_client, roots_of, with_node_name
from nvdra_node.app.environment import SystemdEnvironment
from nvdra_node.app.plugin import Plugin, PluginDependencies
from nvdra_node.cdi.spec import Common
from nvdra_node.computedomain.clique_label import CliqueLabelWriter
from nvdra_node.computedomain.connection import SupervisorConnection, held_claims
from nvdra_node.computedomain.driver import ComputeDomainDriver
from nvdra_node.computedomain.plan import CDI_KIND
from nvdra_node.computedomain.supervisor_client import GrpcSupervisorClient, HeldClaim
from nvdra_node.host.files import HostFiles
from nvdra_node.host.sysfs import HostSysfs
from nvdra_node.kube.dra import DraApi

_LOG = log.get(__name__)

SOCKET = "supervisor.sock"


class NoEdits:
    """See cdi.store.DriverFiles. Containers with a channel get the driver's files with their GPUs."""

    def current(self, deadline: Deadline) -> Common:
        """See DriverFiles."""
        return Common(b"{}")


def run(settings: config.NodeConfig, system: SystemdEnvironment) -> int:
    """Run until stopped; returns the exit status. Raises ConfigError before anything is started."""
    verbosity, style = settings.verbosity, settings.log_format
    log.configure(verbosity=verbosity, style=style, journal=system.is_journal)
    settings = with_node_name(settings)
    _LOG.info("starting", settings=config.describe(settings))
    clock = SystemClock()
    client = open_client(settings)
    sysfs = HostSysfs(roots_of(settings))
    workers = Workers(clock)
    supervisor = GrpcSupervisorClient(settings.imex_dir / SOCKET)
    connection = SupervisorConnection(supervisor, clock)
    is_shared = settings.shared_channels
    driver = ComputeDomainDriver(connection, supervisor, sysfs, clock, is_shared=is_shared)
    deps = PluginDependencies(
        settings=replace(settings, http_endpoint=settings.compute_domain_http_endpoint),
        api=DraApi(client),
        files=HostFiles(),
        driver_files=NoEdits(),
        cdi_kind=CDI_KIND,
        boot_id=sysfs.boot_id(),
        device_types=("channel",),
        clock=clock,
        workers=workers,
        wait_first_scan=connection.wait_first,
        nvml_hangs=lambda: 0,
    )
    plugin = Plugin(driver, deps)
    notifier = Notifier.connect(system.notify_socket)
    plugin.show_readiness(notifier.status)
    label = CliqueLabelWriter(client, settings.node_name, lambda: connection.view, clock)
    try:
        service = Service(
            components=[
                *plugin.components(),
                *_connection_components(connection, plugin, deps),
                *_label_components(label, connection, deps),
                ChannelNumberMonitor(sysfs, plugin.renew_files, clock, workers),
            ],
            workers=workers,
            clock=clock,
            notifier=notifier,
            self_check=plugin.problems,
            watchdog_interval_s=system.watchdog_interval_s,
        )
        return service.run()
    finally:
        workers.stopping.set()
        supervisor.close()
        client.close()


def _connection_components(
    connection: SupervisorConnection, plugin: Plugin, deps: PluginDependencies
) -> list[FunctionComponent]:
    """Workers that watch the supervisor and send it the claims."""
    workers = deps.workers

    def sync() -> None:
        connection.sync(lambda: _held(plugin, deps.boot_id), workers.stopping)

    return [
        worker_component(
            workers,
            "supervisor-watch",
            lambda: connection.watch(workers.stopping),
            connection.close,
        ),
        worker_component(workers, "supervisor-sync", sync),
    ]


def _held(plugin: Plugin, boot_id: str) -> list[HeldClaim]:
    """The claims sent to the supervisor. A claim with a damaged record counts while its CDI file exists.

    Raises FileError.
    """
    records = plugin.records
    damaged = [
        uid
        for uid in plugin.specs.uids()
        if records.get(uid) is None and records.is_quarantined(uid)
    ]
    return held_claims(records.all(), boot_id, damaged)


def _label_components(
    label: CliqueLabelWriter, connection: SupervisorConnection, deps: PluginDependencies
) -> list[FunctionComponent]:
    if not deps.settings.gpu_clique_label:
        return []
    connection.subscribe(label.changed)
    stopping = deps.workers.stopping
    return [
        worker_component(deps.workers, "clique-label", lambda: label.run(stopping), label.changed)
    ]
