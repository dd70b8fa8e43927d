"""The service for gpu.nvidia.com: builds the GPU driver and runs it in the shared machinery. Called by ``cli``, with
the look at the GPUs that ``firstlook`` has begun.
"""

from __future__ import annotations

from nvdra_core.errors import ConfigError
from nvdra_core.gates import FeatureGates, Gate
from nvdra_core.kube.dra import DraApi
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_core.runtime.service import Service
from nvdra_core.runtime.systemd import Notifier
from nvdra_node import config
from nvdra_node.app.dependencies import checked_gates, open_client, with_node_name
from nvdra_node.app.driverfiles import DriverFilesPart
from nvdra_node.app.environment import SystemdEnvironment
from nvdra_node.app.onecpu import OneCpu
from nvdra_node.app.parts import FunctionPart
from nvdra_node.app.plugin import Plugin, Surroundings
from nvdra_node.app.startup import FirstLook
from nvdra_node.cdi.nvidia import CommonEdits
from nvdra_node.cdi.toolkit import Toolkit
from nvdra_node.gpu.apply import Effects
from nvdra_node.gpu.driver import GpuDriver
from nvdra_node.gpu.inventory.rescan import Rescanner
from nvdra_node.gpu.owed import Owed
from nvdra_node.gpu.slices import SliceSettings
from nvdra_node.host.cpus import Cpus
from nvdra_node.host.files import HostFiles
from nvdra_node.host.host import Host
from nvdra_node.host.ports import Files
from nvdra_node.kubeletplugin.slices.client import KubeSlices
from nvdra_node.kubeletplugin.slices.client import withdraw as withdraw_slices

CDI_KIND = "k8s.gpu.nvidia.com/claim"
DRIVERS = (GpuDriver.name, "compute-domain.nvidia.com")


def run(settings: config.NodeConfig, system: SystemdEnvironment, look: FirstLook) -> int:
    """Run until told to stop; the exit status. Raises ConfigError before anything but the look was started."""
    gates = parse_gates(settings)
    settings = with_node_name(settings)
    clock, host, workers, watch = look.clock, look.host, look.workers, look.watch
    client = open_client(settings)
    try:
        files = HostFiles()
        driver = open_driver(settings, gates, look, files)
        common = CommonEdits(toolkit(settings, host), host.commands, host.sysfs, files, clock)
        around = Surroundings(
            settings=settings,
            api=DraApi(client),
            files=files,
            driver_files=common,
            cdi_kind=CDI_KIND,
            boot_id=host.sysfs.boot_id(),
            device_types=("gpu", "mig", "vfio"),
            clock=clock,
            workers=workers,
            first_look=lambda timeout_s: _wait_first(watch, driver_files, timeout_s),
            hangs=lambda: host.nvml.hangs,
            taints=gates.enabled(Gate.NVML_DEVICE_HEALTH_CHECK),
            notes=lambda: watch.inventory.notes,
            settled=watch.wait_settled,
        )
        plugin = Plugin(driver, around)
        driver_files = _check_driver_files(look, common, plugin)
        notifier = Notifier.connect(system.notify_socket)
        plugin.show_readiness(notifier.status)
        service = Service(
            parts=[
                FunctionPart(name="watch", end=lambda deadline: look.stop()),
                *plugin.parts(),
                driver_files,
                OneCpu(Cpus(), clock, workers),
            ],
            workers=workers,
            clock=clock,
            notifier=notifier,
            self_check=plugin.problems,
            watchdog_interval_s=system.watchdog_interval_s,
            reload=watch.reload,
        )
        return service.run()
    finally:
        workers.stopping.set()
        client.close()


def _check_driver_files(look: FirstLook, common: CommonEdits, plugin: Plugin) -> DriverFilesPart:
    """The part that keeps the driver's files listed, and reports whether claims can be prepared with them."""

    def report(cause: str) -> None:
        # Without a driver there are no devices to withhold; the inventory's notes say why there is none.
        is_loaded = look.host.sysfs.driver_version() is not None
        plugin.readiness.report("driver files", cause if is_loaded else "")

    part = DriverFilesPart(common, plugin.renew_files, report, look.clock, look.workers)
    look.watch.subscribe(part.changed)
    common.on_failure(part.changed)
    return part


def _wait_first(watch: Rescanner, driver_files: DriverFilesPart, timeout_s: float) -> None:
    """Wait for what the first publishing should know: the GPUs, and whether claims for them can be prepared."""
    limit = Deadline(timeout_s, SystemClock())
    if watch.wait_first(timeout_s) and watch.inventory.devices:
        driver_files.wait_first(limit.remaining_s())


def open_driver(
    settings: config.NodeConfig, gates: FeatureGates, look: FirstLook, files: Files
) -> GpuDriver:
    """The GPU driver on this machine."""
    owed = Owed(settings.state_dir / GpuDriver.name / "owed", files)
    hook = settings.nvidia_cdi_hook_path
    effects = Effects(look.host, owed)
    return GpuDriver(effects, look.watch, gates, slice_settings(settings, gates), hook)


def withdraw(settings: config.NodeConfig) -> int:
    """Delete this node's slices of both drivers, for an uninstall. Raises ApiError."""
    clock = SystemClock()
    settings = with_node_name(settings)
    client = open_client(settings)
    try:
        api = DraApi(client)
        deadline = Deadline(30.0, clock)
        for driver in DRIVERS:
            withdraw_slices(KubeSlices(api, driver, settings.node_name), deadline)
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
