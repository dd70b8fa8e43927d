"""The service for gpu.nvidia.com: builds the GPU driver and runs it as a kubelet plugin. Called by ``cli``."""

from __future__ import annotations

import msgspec

from nvdra_core.errors import ConfigError
from nvdra_core.gates import FeatureGates, Gate
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline, SystemClock
from nvdra_core.runtime.service import FunctionComponent, Service
from nvdra_core.runtime.systemd import Notifier
from nvdra_core.runtime.workers import Workers
from nvdra_node import config
from nvdra_node.app.cpu_pinning import CpuPinner
from nvdra_node.app.dependencies import checked_gates, open_client, roots_of, with_node_name
from nvdra_node.app.driverfiles import DriverFilesMonitor
from nvdra_node.app.environment import SystemdEnvironment
from nvdra_node.app.plugin import Plugin, PluginDependencies
from nvdra_node.cdi.nvidia import CommonEdits
from nvdra_node.cdi.toolkit import Toolkit
from nvdra_node.gpu import registry
from nvdra_node.gpu.driver import GpuDriver
from nvdra_node.gpu.effects.debts import DebtStore
from nvdra_node.gpu.inventory.rescan import Rescanner, RescanSettings
from nvdra_node.gpu.inventory.scan import Limits
from nvdra_node.gpu.kinds.base import SliceSettings
from nvdra_node.host.cpus import Cpus
from nvdra_node.host.files import HostFiles
from nvdra_node.host.host import Host, open_host
from nvdra_node.host.ports import Files
from nvdra_node.kube.dra import DraApi
from nvdra_node.kubeletplugin.slices.client import SliceClient
from nvdra_node.kubeletplugin.slices.client import withdraw as withdraw_slices

_LOG = log.get(__name__)
CDI_KIND = "k8s.gpu.nvidia.com/claim"
DRIVERS = (GpuDriver.name, "compute-domain.nvidia.com")
STOP_SCAN_S = 1.0
"""For a scan in progress; closing NVML ends one that hangs."""


class GpuHost(msgspec.Struct, frozen=True, kw_only=True):
    """This machine and the scans of its GPUs."""

    clock: Clock
    host: Host
    workers: Workers
    rescanner: Rescanner

    @classmethod
    def open(cls, settings: config.NodeConfig) -> GpuHost:
        """Nothing is started yet."""
        clock = SystemClock()
        host, workers = open_host(roots_of(settings)), Workers(clock)
        rescanner = Rescanner(host, clock, rescan_settings(settings), workers)
        return cls(clock=clock, host=host, workers=workers, rescanner=rescanner)

    def close(self) -> None:
        """End the scans and the NVML child; may be called again."""
        self.rescanner.stop(STOP_SCAN_S)
        self.host.close()


def run(settings: config.NodeConfig, system: SystemdEnvironment) -> int:
    """Run until stopped; return the exit status. Raises ConfigError before anything but the scan was started."""
    log.configure(
        verbosity=settings.verbosity, style=settings.log_format, journal=system.is_journal
    )
    _LOG.info("starting", settings=config.describe(settings))
    gates = parse_gates(settings)
    gpus = GpuHost.open(settings)
    gpus.rescanner.start()  # before the credential and TLS are read: the first slice waits for it
    try:
        return _run(with_node_name(settings), system, gates, gpus)
    finally:
        gpus.workers.stopping.set()
        gpus.close()


def _run(
    settings: config.NodeConfig, system: SystemdEnvironment, gates: FeatureGates, gpus: GpuHost
) -> int:
    host, clock, rescanner = gpus.host, gpus.clock, gpus.rescanner
    files = HostFiles()
    common = CommonEdits(toolkit(settings, host), host.commands, host.sysfs, files, clock)
    client = open_client(settings)
    try:
        dependencies = PluginDependencies(
            settings=settings,
            api=DraApi(client),
            files=files,
            driver_files=common,
            cdi_kind=CDI_KIND,
            boot_id=host.sysfs.boot_id(),
            device_types=("gpu", "mig", "vfio"),
            clock=clock,
            workers=gpus.workers,
            wait_first_scan=lambda timeout_s: _wait_first_scan(rescanner, driver_files, timeout_s),
            nvml_hangs=lambda: host.nvml.hangs,
            should_taint=gates.enabled(Gate.NVML_DEVICE_HEALTH_CHECK),
            notes=lambda: rescanner.inventory.notes,
            wait_settled=rescanner.wait_settled,
        )
        plugin = Plugin(open_driver(settings, gates, gpus, files), dependencies)
        driver_files = _monitor_driver_files(gpus, common, plugin)
        notifier = Notifier.connect(system.notify_socket)
        plugin.show_readiness(notifier.status)
        return Service(
            components=[
                FunctionComponent(name="gpu rescan", end=lambda deadline: gpus.close()),
                *plugin.components(),
                driver_files,
                CpuPinner(Cpus(), clock, gpus.workers),
            ],
            workers=gpus.workers,
            clock=clock,
            notifier=notifier,
            self_check=plugin.problems,
            watchdog_interval_s=system.watchdog_interval_s,
            reload=rescanner.reload,
        ).run()
    finally:
        client.close()


def rescan_settings(settings: config.NodeConfig) -> RescanSettings:
    """When to scan the GPUs, and what of them."""
    return RescanSettings(
        rescan_s=settings.rescan_interval_s,
        driver_poll_s=settings.driver_poll_s,
        limits=Limits(
            gpu_s=settings.nvml_timeout_s,
            fabric=not settings.feature_gates.get("FabricManagerPartitioning", False),
        ),
    )


def _monitor_driver_files(gpus: GpuHost, common: CommonEdits, plugin: Plugin) -> DriverFilesMonitor:
    """Keeps the driver's files listed, and reports whether claims can be prepared with them."""

    def report(cause: str) -> None:
        # Without a driver there are no devices to withhold; the inventory's notes say why there is none.
        is_loaded = gpus.host.sysfs.driver_version() is not None
        plugin.readiness.report("driver files", cause if is_loaded else "")

    monitor = DriverFilesMonitor(common, plugin.renew_files, report, gpus.clock, gpus.workers)
    gpus.rescanner.subscribe(monitor.changed)
    common.on_failure(monitor.changed)
    return monitor


def _wait_first_scan(
    rescanner: Rescanner, driver_files: DriverFilesMonitor, timeout_s: float
) -> None:
    """Wait for what the first publishing needs: the GPUs, and whether claims for them can be prepared."""
    limit = Deadline(timeout_s, SystemClock())
    if rescanner.wait_first(timeout_s) and rescanner.inventory.gpus:
        driver_files.wait_first(limit.remaining_s())


def open_driver(
    settings: config.NodeConfig, gates: FeatureGates, gpus: GpuHost, files: Files
) -> GpuDriver:
    """The GPU driver on this machine."""
    debts = DebtStore(settings.state_dir / GpuDriver.name / "owed", files)
    hook = settings.nvidia_cdi_hook_path
    known = registry.build(gpus.host, gpus.rescanner, debts, hook)
    return GpuDriver(known, gpus.rescanner, gates, slice_settings(settings, gates))


def withdraw(settings: config.NodeConfig) -> int:
    """Delete this node's slices of both drivers, for an uninstall. Raises ApiError."""
    clock = SystemClock()
    settings = with_node_name(settings)
    client = open_client(settings)
    try:
        api = DraApi(client)
        deadline = Deadline(30.0, clock)
        for driver in DRIVERS:
            withdraw_slices(SliceClient(api, driver, settings.node_name), deadline)
        return 0
    finally:
        client.close()


def parse_gates(settings: config.NodeConfig) -> FeatureGates:
    """The gates of the settings, checked. Raises ConfigError."""
    gates = checked_gates(settings)
    if settings.consumable_shares != "disabled" and not gates.enabled(Gate.CONSUMABLE_SHARES):
        raise ConfigError(
            f"consumableShares is {settings.consumable_shares!r}, but the feature gate ConsumableShares is"
            " off; set featureGates: {ConsumableShares: true}"
        )
    return gates


def toolkit(settings: config.NodeConfig, host: Host) -> Toolkit:
    """NVIDIA's programs."""
    return Toolkit(
        ctk=settings.nvidia_ctk_path,
        hook=settings.nvidia_cdi_hook_path,
        roots=host.roots,
        cache=settings.state_dir / GpuDriver.name / "driver-files.json",
    )


def slice_settings(settings: config.NodeConfig, gates: FeatureGates) -> SliceSettings:
    """What gates decide about slices."""
    return SliceSettings(
        taints=gates.enabled(Gate.NVML_DEVICE_HEALTH_CHECK),
        list_attributes=gates.enabled(Gate.DRA_LIST_TYPE_ATTRIBUTES),
        shares=settings.consumable_shares,
        module_ids=gates.enabled(Gate.FABRIC_MANAGER_PARTITIONING),
    )
