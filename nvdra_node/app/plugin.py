"""A kubelet plugin for one DRA driver: sockets, transaction, publisher, sweeper, metrics. Called by ``gpu`` and others.

Order of starting: records are read before the sockets exist (the kubelet may call within milliseconds of the
registration), and sockets are served before devices are discovered (unprepare must work without the NVIDIA driver).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from nvdra_core import __version__
from nvdra_core.errors import ApiError, FileError, HostError, NvdraError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_core.runtime.metrics import new_registry
from nvdra_core.runtime.service import Component, FunctionComponent, worker_component
from nvdra_core.runtime.workers import Workers
from nvdra_node.app.gauges import PluginCollector, PluginState
from nvdra_node.app.http_endpoint import Health, endpoint_components
from nvdra_node.cdi.store import DriverFiles, SpecFiles
from nvdra_node.checkpoint.store import RecordStore
from nvdra_node.config import NodeConfig
from nvdra_node.host.ports import Files
from nvdra_node.kube.dra import DraApi
from nvdra_node.kubeletplugin.claims import filecheck
from nvdra_node.kubeletplugin.claims.access import ClaimAccess
from nvdra_node.kubeletplugin.claims.dependencies import Dependencies
from nvdra_node.kubeletplugin.claims.reader import ClaimReader
from nvdra_node.kubeletplugin.claims.status_writer import ClaimStatusWriter
from nvdra_node.kubeletplugin.claims.sweep import Sweeper, SweepTimes
from nvdra_node.kubeletplugin.claims.transaction import Transaction
from nvdra_node.kubeletplugin.claims.wait_events import WaitEvents
from nvdra_node.kubeletplugin.driver import Driver
from nvdra_node.kubeletplugin.events import EventSource
from nvdra_node.kubeletplugin.kubelet.health import HealthService
from nvdra_node.kubeletplugin.kubelet.registration import Registration, SelfCheck
from nvdra_node.kubeletplugin.kubelet.server import PluginServer, SocketPaths
from nvdra_node.kubeletplugin.kubelet.service import DraService
from nvdra_node.kubeletplugin.metrics import PluginMetrics
from nvdra_node.kubeletplugin.node_events import NodeEvents
from nvdra_node.kubeletplugin.readiness import GuardedPool, Readiness, write_fault
from nvdra_node.kubeletplugin.reporting import ReportingHandler
from nvdra_node.kubeletplugin.slices.client import SliceClient
from nvdra_node.kubeletplugin.slices.publisher import Publisher

_LOG = log.get(__name__)
SOCKET_WAIT_S = 20.0
"""Time for an earlier instance of this service to release the sockets."""
DRAIN_S = 10.0
FIRST_SCAN_S = 3.0
SETTLE_S = 20.0
"""For eight GPUs without persistence mode, whose first use takes up to 7 s each."""
SETTLE_POLL_S = 0.5
REGISTRATION_WAIT_S = 10.0
"""How long the first publishing waits for the kubelet to register this driver."""
SELF_CHECK_S = 2.0
"""Per socket: far above the time of an answer, far below the watchdog's."""
PATHS_POLL_S = 5.0
PROBE_S = 60.0
"""Between write probes of the directories that claims need; PATHS_POLL_S while one fails and after a file error in
a prepare."""
RENEW_S = 10.0
"""To lock one claim and write its CDI file; an operation that holds the claim longer writes the file itself."""


def _is_settled(timeout_s: float) -> bool:
    return True


class PluginDependencies(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin needs beside its driver."""

    settings: NodeConfig
    api: DraApi
    files: Files
    driver_files: DriverFiles
    cdi_kind: str
    """``<vendor>/<class>`` of the claims' CDI files."""
    boot_id: str
    device_types: tuple[str, ...]
    clock: Clock
    workers: Workers
    wait_first_scan: Callable[[float], object]
    """Waits for the first discovery of devices, at most so many seconds."""
    nvml_hangs: Callable[[], int]
    """NVML calls abandoned since start, for metrics."""
    should_taint: bool = False
    """While no claim can be prepared: publish the devices with a taint instead of none."""
    notes: Callable[[], Sequence[str]] = tuple
    """Remarks for the health endpoint that do not make the node unready."""
    wait_settled: Callable[[float], bool] = _is_settled
    """Waits until all devices have answered, at most so many seconds; returns whether they have."""


class Plugin:
    """One driver and what serves it. Nothing is started by building it."""

    def __init__(self, driver: Driver, deps: PluginDependencies) -> None:
        settings, clock = deps.settings, deps.clock
        self._deps = deps
        self._registered = threading.Event()
        self.readiness = Readiness()
        self._disk_suspected = threading.Event()
        self.rights = ClaimAccess(deps.api, partial(self.readiness.report, "claims"), clock)
        self.registry = new_registry(__version__)
        self.metrics = PluginMetrics(self.registry, clock, driver.name)
        state_dir = settings.state_dir / driver.name
        self.records = RecordStore(state_dir, deps.files)
        self.specs = SpecFiles(
            settings.cdi_root, deps.cdi_kind, deps.files, deps.driver_files, state_dir / "files"
        )
        self._event_source = EventSource(f"nvdra-{driver.name}", settings.node_name)
        self.wait_events = WaitEvents(deps.api, deps.api.client, self._event_source, clock)
        self._claim_deps = Dependencies(
            driver=driver,
            claims=ClaimReader(deps.api, driver.name, settings.node_name, self.metrics),
            records=self.records,
            specs=self.specs,
            clock=clock,
            boot_id=deps.boot_id,
            stopping=deps.workers.stopping,
            wait_events=self.wait_events,
        )
        self.transaction = Transaction(self._claim_deps)
        self.sweep = Sweeper(
            self.transaction, self._claim_deps, SweepTimes.every(settings.sweep_interval_s)
        )
        self._assemble_sockets(driver)
        state = PluginState(
            driver=driver,
            records=self.records,
            publisher=self.publisher,
            readiness=self.readiness,
            hangs=deps.nvml_hangs,
            node=settings.node_name,
            boot_id=deps.boot_id,
            device_types=deps.device_types,
        )
        self.registry.register(PluginCollector(state))

    def _assemble_sockets(self, driver: Driver) -> None:
        settings, clock = self._deps.settings, self._deps.clock
        self._paths = paths = SocketPaths(
            driver=driver.name,
            data_dir=settings.plugins_dir / driver.name,
            registry_dir=settings.registrar_dir,
        )
        slices = SliceClient(self._deps.api, driver.name, settings.node_name)
        pool = GuardedPool(driver, self.readiness, taints=self._deps.should_taint)
        self.publisher = Publisher(pool, settings.node_name, slices, self.metrics, clock)
        self.events = NodeEvents(self.readiness, self._deps.api.client, self._event_source, clock)
        self.status = ClaimStatusWriter(self._deps.api, driver.name, clock)
        handler = ReportingHandler(self.transaction, self.status, self._prepare_failed)
        self.dra = DraService(driver.name, handler, self.metrics, clock)
        self.health = HealthService(settings.node_name, lambda: driver.pool().health, clock)
        self.registration = Registration(
            driver.name,
            paths.dra,
            clock,
            registered=self._on_registered,
            refused=lambda: None,
        )
        self.server = PluginServer(
            paths,
            [self.dra.add_to, self.health.add_to],
            [self.registration.add_to],
            clock,
        )
        self.check = SelfCheck(paths.registration, paths.dra)
        driver.subscribe(self.publisher.changed)
        driver.subscribe(self.health.changed)
        self.readiness.subscribe(self.publisher.changed)

    def _on_registered(self) -> None:
        self._registered.set()
        self.publisher.registered()

    def components(self) -> list[Component]:
        """In the order of starting."""
        workers = self._deps.workers
        return [
            # Stopped last, because calls need it; closing it ends requests that would delay the stop.
            FunctionComponent(name="api", end=lambda deadline: self._deps.api.client.close()),
            FunctionComponent(name="records", begin=self._open_records),
            FunctionComponent(name="sockets", begin=self._serve, end=self._stop_serving),
            worker_component(workers, "publisher", self._publish, self._stop_publisher),
            worker_component(workers, "sweep", lambda: self.sweep.run(workers.stopping)),
            worker_component(workers, "path-monitor", self._monitor_paths),
            worker_component(workers, "node-events", lambda: self.events.run(workers.stopping)),
            FunctionComponent(
                name="waiting",
                begin=self.wait_events.outbox.start,
                end=lambda deadline: self.wait_events.outbox.stop(),
            ),
            *self._status_components(),
            *endpoint_components(
                self._deps.settings.http_endpoint,
                self._deps.settings.metrics_path,
                Health(self._unready, self._deps.notes),
                self.registry,
            ),
        ]

    def _unready(self) -> list[str]:
        """For the health endpoint: also causes that a restart of this service would not repair."""
        blocked = [f"no claim can be prepared: {cause}" for cause in self.readiness.causes]
        return [*self.problems(), *blocked]

    def problems(self) -> list[str]:
        """Call both sockets; returns what is wrong. systemd restarts the service if this lasts."""
        try:
            self.check(SELF_CHECK_S)
        except HostError as error:
            return [str(error)]
        return []

    def show_readiness(self, status: Callable[[str], None]) -> None:
        """Call ``status`` (systemd's status line) at each change of the readiness."""

        def show() -> None:
            causes = self.readiness.causes
            status(f"no claim can be prepared: {'; '.join(causes)}" if causes else "running")

        self.readiness.subscribe(show)

    def renew_files(self) -> bool:
        """Update prepared claims' CDI files for the loaded driver, and undo effects of ended claims on recovered GPUs.

        Returns whether nothing is left to do. Does not raise: failures are logged, and reported by the next prepare.
        """
        is_done = True
        for record in self.records.all():
            deadline = Deadline(RENEW_S, self._deps.clock)
            try:
                if self.transaction.renew_file(record, deadline):
                    _LOG.info("CDI file rewritten", uid=record.uid)
            except NvdraError as error:
                _LOG.info("prepared claim not renewed", v=2, uid=record.uid, error=str(error))
                is_done = False
        try:
            return self.transaction.settle(RENEW_S) and is_done
        except NvdraError as error:
            _LOG.warning("effects of ended claims not undone", error)
            return False

    def _open_records(self) -> None:
        self.records.load()
        self.specs.open()

    def _serve(self) -> None:
        deadline = Deadline(SOCKET_WAIT_S, self._deps.clock)
        self.server.start(deadline, self._deps.workers.stopping)

    def _stop_serving(self, deadline: Deadline) -> None:
        drain_s = min(DRAIN_S, deadline.remaining_s())
        self.health.stop()
        self.server.stop(lambda: self._drain(Deadline(drain_s, self._deps.clock)))

    def _drain(self, deadline: Deadline) -> None:
        if not self.dra.drain(deadline):
            _LOG.warning("stopping with calls in progress; the kubelet repeats them")

    def _publish(self) -> None:
        self.publisher.prefetch()
        # One write with all devices instead of an empty one first. Limited, because a scan may hang.
        self._deps.wait_first_scan(FIRST_SCAN_S)
        if self.publisher.has_devices():
            # Devices that an earlier process published must not be withdrawn because they are slow to answer.
            self._settle()
        # A pod that starts before the kubelet has registered the driver fails, and is retried after 60 to 90 s only.
        if not self._deps.clock.wait(self._registered, REGISTRATION_WAIT_S):
            _LOG.warning("publishing before the kubelet has registered this driver")
        self.publisher.run()

    def _settle(self) -> None:
        limit, stopping = Deadline(SETTLE_S, self._deps.clock), self._deps.workers.stopping
        while limit.remaining_s() > 0.0 and not stopping.is_set():
            if self._deps.wait_settled(SETTLE_POLL_S):
                return

    def _stop_publisher(self) -> None:
        self._registered.set()
        self.publisher.stop()

    def _monitor_paths(self) -> None:
        """Check sockets, CDI files and directories, which other programs may delete."""
        deps = self._deps
        next_probe_s = deps.clock.monotonic()
        while not deps.clock.wait(deps.workers.stopping, PATHS_POLL_S):
            self._keep_sockets()
            filecheck.write_missing(self.transaction, self._claim_deps)
            self.rights.probe()
            if self._disk_suspected.is_set() or deps.clock.monotonic() >= next_probe_s:
                self._disk_suspected.clear()
                is_writable = self.probe_directories()
                next_probe_s = deps.clock.monotonic() + (PROBE_S if is_writable else 0.0)

    def _prepare_failed(self, error: FileError | ApiError) -> None:
        if isinstance(error, ApiError):
            self.rights.failed(error)
        else:
            self._disk_suspected.set()

    def probe_directories(self) -> bool:
        """Report whether records and CDI files can be written, and return it."""
        settings, name = self._deps.settings, self._claim_deps.driver.name
        probes = (settings.state_dir / name / "probe", settings.cdi_root / f"nvdra-probe-{name}")
        cause = write_fault(self._deps.files, probes)
        self.readiness.report("directories", cause)
        return not cause

    def _keep_sockets(self) -> None:
        """Restore sockets after the kubelet's directories were emptied.

        The registration socket is bound again. If the DRA socket is missing, or another program has bound a name, the
        service restarts; the start reports the other program. Raises FileError.
        """
        if self.server.has_sockets():
            return
        _LOG.warning("socket removed or replaced by another program; registering again")
        self.server.register_again()
        if not self.server.has_sockets():
            raise FileError("DRA socket removed or replaced; restarting", path=str(self._paths.dra))

    def _status_components(self) -> list[Component]:
        if self._deps.settings.claim_status == "off":
            self.status.disable()
            return []
        return [
            FunctionComponent(
                name="claim status",
                begin=self.status.outbox.start,
                end=lambda deadline: self.status.outbox.stop(),
            )
        ]
