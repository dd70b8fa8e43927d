"""The machinery around one DRA driver, assembled: sockets, transaction, publisher, sweep, metrics, life cycle.

Called by ``gpu`` (and by every later driver) with the driver and its surroundings. Nothing is started here:
``Plugin.service`` gives a Service whose ``run`` does.

Order of starting: the records are read before a socket exists (the kubelet may call within milliseconds of the
registration); sockets before devices are looked for (unprepare must work without the NVIDIA driver).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from nvdra_core import __version__
from nvdra_core.errors import ApiError, FileError, HostError, NvdraError
from nvdra_core.kube.dra import DraApi
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_core.runtime.metrics import new_registry
from nvdra_core.runtime.service import Component, FunctionComponent
from nvdra_core.runtime.workers import Workers
from nvdra_node.app.gauges import PluginCollector, PluginState
from nvdra_node.app.http_endpoint import Health, endpoint_components
from nvdra_node.cdi.store import DriverFiles, SpecFiles
from nvdra_node.checkpoint.store import RecordStore
from nvdra_node.config import NodeConfig
from nvdra_node.host.ports import Files
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
"""How long to wait for an earlier instance of ours to let go of the sockets."""
DRAIN_S = 10.0
FIRST_SCAN_S = 3.0
SETTLE_S = 20.0
"""For eight GPUs without persistence mode, whose first use takes up to 7 s each."""
SETTLE_POLL_S = 0.5
REGISTRATION_WAIT_S = 10.0
"""How long the first publishing waits for the kubelet."""
SELF_CHECK_S = 2.0
"""For each socket: far above what an answer takes, far below any watchdog."""
PATHS_POLL_S = 5.0
PROBE_S = 60.0
"""Between two proofs that files can be written where claims need them; PATHS_POLL_S while they cannot, and after a
prepare that failed by a file."""
RENEW_S = 10.0
"""For one claim's CDI file; who works on the claim for longer writes it himself."""


def _is_settled(timeout_s: float) -> bool:
    return True


class PluginDependencies(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver's machinery stands on."""

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
    """Waits until the devices were looked at, at most so many seconds."""
    nvml_hangs: Callable[[], int]
    """Calls to the hardware that were given up since start, for metrics."""
    should_taint: bool = False
    """While no claim can be prepared: show the devices with a taint, instead of none."""
    notes: Callable[[], Sequence[str]] = tuple
    """What is worth knowing and no reason to withhold devices, for the health endpoint."""
    wait_settled: Callable[[float], bool] = _is_settled
    """Waits until no device is being waited for, at most so many seconds; whether none is."""


class Plugin:
    """One driver with all that serves it."""

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
        self.specs = SpecFiles(settings.cdi_root, deps.cdi_kind, deps.files, deps.driver_files)
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
            registered=self._have_registered,
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

    def _have_registered(self) -> None:
        self._registered.set()
        self.publisher.registered()

    def components(self) -> list[Component]:
        """In the order of starting."""
        return [
            # Stopped last: calls need it to the end, and who then still waits for an answer must not hold the end up.
            FunctionComponent(name="api", end=lambda deadline: self._deps.api.client.close()),
            FunctionComponent(name="records", begin=self._open_records),
            FunctionComponent(name="sockets", begin=self._serve, end=self._stop_serving),
            FunctionComponent(
                name="publisher", begin=self._start_publisher, end=self._stop_publisher
            ),
            FunctionComponent(name="sweep", begin=self._start_sweep),
            FunctionComponent(name="path watch", begin=self._start_path_watch),
            FunctionComponent(name="node events", begin=self._start_events),
            FunctionComponent(
                name="waiting",
                begin=self.wait_events.outbox.start,
                end=lambda deadline: self.wait_events.outbox.stop(),
            ),
            *self._status_components(),
            *endpoint_components(
                self._deps.settings.http_endpoint,
                self._deps.settings.metrics_path,
                Health(self._unwell, self._deps.notes),
                self.registry,
            ),
        ]

    def _unwell(self) -> list[str]:
        """For the health endpoint: also what a restart of this service cannot mend."""
        blocked = [f"no claim can be prepared: {cause}" for cause in self.readiness.causes]
        return [*self.problems(), *blocked]

    def problems(self) -> list[str]:
        """What is wrong with this process; proves that both sockets answer. systemd ends it when this lasts."""
        try:
            self.check(SELF_CHECK_S)
        except HostError as error:
            return [str(error)]
        return []

    def show_readiness(self, status: Callable[[str], None]) -> None:
        """Have ``status`` (systemd's status line) called with each change of the readiness."""

        def show() -> None:
            causes = self.readiness.causes
            status(f"no claim can be prepared: {'; '.join(causes)}" if causes else "running")

        self.readiness.subscribe(show)

    def renew_files(self) -> bool:
        """Bring the prepared claims up to the driver that is loaded now, and undo what ended claims left on GPUs that
        answer again; whether there is nothing left to do. Never fails: what is wrong is logged, and said again by the
        prepare that meets it."""
        is_done = True
        for record in self.records.all():
            deadline = Deadline(RENEW_S, self._deps.clock)
            try:
                if self.transaction.renew_file(record, deadline):
                    _LOG.info("CDI file written again", uid=record.uid)
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
            _LOG.warning("stopping although calls still run; the kubelet will repeat them")

    def _start_publisher(self) -> None:
        self._deps.workers.spawn("publisher", self._publish)

    def _publish(self) -> None:
        self.publisher.prefetch()
        # One write with all devices, and not an empty one and a second; but a look that hangs must not hold it up.
        self._deps.wait_first_scan(FIRST_SCAN_S)
        if self.publisher.has_devices():
            # An earlier process published them: what is only slow to answer must not be withdrawn by a restart.
            self._settle()
        # A pod that is scheduled before the kubelet knows us fails, and is tried again only after 60 to 90 s.
        if not self._deps.clock.wait(self._registered, REGISTRATION_WAIT_S):
            _LOG.warning("publishing although the kubelet has not registered this driver")
        self.publisher.run()

    def _settle(self) -> None:
        limit, stopping = Deadline(SETTLE_S, self._deps.clock), self._deps.workers.stopping
        while limit.remaining_s() > 0.0 and not stopping.is_set():
            if self._deps.wait_settled(SETTLE_POLL_S):
                return

    def _stop_publisher(self, deadline: Deadline) -> None:
        self._registered.set()
        self.publisher.stop()

    def _start_sweep(self) -> None:
        stopping = self._deps.workers.stopping
        self._deps.workers.spawn("sweep", lambda: self.sweep.run(stopping))

    def _start_path_watch(self) -> None:
        self._deps.workers.spawn("path-watch", self._watch_paths)

    def _start_events(self) -> None:
        stopping = self._deps.workers.stopping
        self._deps.workers.spawn("node-events", lambda: self.events.run(stopping))

    def _watch_paths(self) -> None:
        """Look after what others may delete."""
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
        """Check that records and CDI files can be written, and report the result; whether they can."""
        settings, name = self._deps.settings, self._claim_deps.driver.name
        probes = (settings.state_dir / name / "probe", settings.cdi_root / f"nvdra-probe-{name}")
        cause = write_fault(self._deps.files, probes)
        self.readiness.report("directories", cause)
        return not cause

    def _keep_sockets(self) -> None:
        """Somebody may empty the kubelet's directories; without sockets the node would be lost and we would not know.

        A registration socket is bound anew. Without the DRA socket this process is of no use: it ends, and starts over.
        So it does when another program has taken a name: a start says who must go.
        """
        if self.server.has_sockets():
            return
        _LOG.warning("a socket is gone, or another program has its name; registering again")
        self.server.register_again()
        if not self.server.has_sockets():
            raise FileError(
                "the DRA socket was removed or replaced; starting over", path=str(self._paths.dra)
            )

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
