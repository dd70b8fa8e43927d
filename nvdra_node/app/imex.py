"""The service that owns the node's IMEX daemon: builds the supervisor with its clients and sources. Called by ``cli``.

Starting and stopping the service leave nvidia-imex running: a new instance adopts the running daemon.
"""

from __future__ import annotations

from functools import partial

from nvdra_core import __version__
from nvdra_core.api.fabric import FabricNodeSpec, FabricNodeStatus
from nvdra_core.errors import ConfigError, HostError
from nvdra_core.gates import FeatureGates, Gate
from nvdra_core.kube.resources import FABRIC_NODES, NODES
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_core.runtime.metrics import new_registry
from nvdra_core.runtime.service import Component, FunctionComponent, Service, worker_component
from nvdra_core.runtime.systemd import Notifier
from nvdra_core.runtime.workers import Workers
from nvdra_node import config
from nvdra_node.app.dependencies import checked_gates, load_kubeconfig, roots_of, with_node_name
from nvdra_node.app.environment import SystemdEnvironment
from nvdra_node.app.http_endpoint import Health, endpoint_components
from nvdra_node.app.imexgauges import ImexCollector
from nvdra_node.host import network
from nvdra_node.host.files import HostFiles
from nvdra_node.host.host import Host, open_host
from nvdra_node.host.units import BrokerUnits
from nvdra_node.imex.certificate import CertificateStore
from nvdra_node.imex.daemon.control import Dependencies
from nvdra_node.imex.daemon.ctl import ImexCtl
from nvdra_node.imex.daemon.process_monitor import ProcessMonitor
from nvdra_node.imex.daemon.render import Layout
from nvdra_node.imex.daemon.store import Store
from nvdra_node.imex.daemon.unit import HOST_UNIT, UNIT, SystemdClient
from nvdra_node.imex.model import AfterAbruptEnd, Mode, Policy
from nvdra_node.imex.report import status as report
from nvdra_node.imex.report.writer import StatusWriter
from nvdra_node.imex.service import SupervisorService
from nvdra_node.imex.sources import fabric
from nvdra_node.imex.sources.address_monitor import AddressMonitor, AddressSources
from nvdra_node.imex.sources.fabric import FabricMonitor
from nvdra_node.imex.sources.peer_monitor import PeerMonitor
from nvdra_node.imex.sources.spec import SpecReflector
from nvdra_node.imex.supervisor import Supervisor
from nvdra_node.kube.client import Client
from nvdra_node.rpc import sockets
from nvdra_node.rpc.server import UnixServer

_LOG = log.get(__name__)

SOCKET = "supervisor.sock"
SOCKET_WAIT_S = 20.0
STOP_GRACE_S = 1.0
MAX_SILENCE_S = 180.0
"""A pass that stops the daemon may take its whole TimeoutStopSec."""
VERSION_S = 10.0
NODE_S = 5.0
PING_S = 2.0


def run(settings: config.NodeConfig, system: SystemdEnvironment) -> int:
    """Run until stopped; returns the exit status. Raises ConfigError before anything is started."""
    log.configure(
        verbosity=settings.verbosity, style=settings.log_format, journal=system.is_journal
    )
    settings = with_node_name(settings)
    _LOG.info("starting", settings=config.describe(settings))
    host = open_host(roots_of(settings))
    kubeconfig = load_kubeconfig(settings)
    client = Client(kubeconfig)

    url = kubeconfig.url
    sources = AddressSources(
        configured=settings.imex_address,
        network=lambda: network.read(host.roots),
        route=lambda: network.towards(url.hostname or "", url.port or 443),
        read_node=lambda: client.get(
            NODES, settings.node_name, deadline=Deadline(NODE_S, SystemClock())
        ),
    )
    supervision = Supervision(settings, host, client, sources)
    try:
        service = Service(
            components=[
                FunctionComponent(name="api", end=lambda deadline: client.close()),
                *supervision.components(),
            ],
            workers=supervision.workers,
            clock=supervision.clock,
            notifier=Notifier.connect(system.notify_socket),
            self_check=supervision.problems,
            watchdog_interval_s=system.watchdog_interval_s,
            reload=supervision.fabric.trigger,
        )
        return service.run()
    finally:
        supervision.workers.stopping.set()
        host.close()
        client.close()


class Supervision:
    """The supervisor with its clients, sources and writers. Nothing is started by building it."""

    def __init__(
        self,
        settings: config.NodeConfig,
        host: Host,
        client: Client,
        addresses: AddressSources,
    ) -> None:
        self._settings = settings
        self._host = host
        self._process_monitor = ProcessMonitor()
        self.clock = SystemClock()
        self.workers = Workers(self.clock)
        self._files = HostFiles()
        self._units = BrokerUnits(settings.unit_broker_socket, self.clock)
        state = settings.state_dir / "imex"
        self._layout = Layout(settings.imex_dir, state / "tls", settings.imex_persist_dir)
        self._certificate = CertificateStore(
            self._layout.tls, host.commands, self._files, self.clock
        )
        self._request = ""
        self._ctl = _ctl(settings, host, self._layout)
        deps = Dependencies(
            unit=_unit(settings, host, self._process_monitor, self._units),
            ctl=self._ctl,
            store=Store(self._files, self._layout, state / "node.json"),
            clock=self.clock,
            policy=policy(settings),
            boot_id=host.sysfs.boot_id(),
            has_certificate=lambda: self._certificate.is_complete,
        )
        self._boot_id = deps.boot_id
        self.supervisor = Supervisor(deps)
        self._process_monitor.subscribe(self.supervisor.trigger)
        self._addresses = AddressMonitor(addresses, self.clock, self.supervisor.set_addresses)
        is_strict = gates_of(settings).enabled(Gate.CRASH_ON_NVLINK_FABRIC_ERRORS)
        self.fabric = FabricMonitor(host, self.clock, self.supervisor, is_strict=is_strict)
        self._spec = SpecReflector(client, FABRIC_NODES, settings.node_name, self._take)
        self._status = StatusWriter(
            client, FABRIC_NODES, settings.node_name, self._report, self.clock
        )
        self._status.delay_first_write(lambda: report.unsettled_s(self.supervisor.snapshot))
        self._peers = PeerMonitor(self._ctl, self.clock, self.supervisor, self._status.changed)
        self._service = SupervisorService(self.supervisor, self.channel_count, self.clock)
        self._server = UnixServer(settings.imex_dir / SOCKET, [self._service.add_to])
        self._lock = sockets.InstanceLock(settings.imex_dir / "supervisor.lock", self.clock)
        self.registry = new_registry(__version__)
        self.registry.register(ImexCollector(self.supervisor, lambda: self._status.writes))
        self._version: str | None = None

    def components(self) -> list[Component]:
        """In the order of starting."""
        stopping, worker = self.workers.stopping, partial(worker_component, self.workers)
        return [
            FunctionComponent(name="state", begin=self._open),
            FunctionComponent(name="socket", begin=self._serve, end=self._stop_serving),
            worker("fabric", lambda: self.fabric.run(stopping), self.fabric.trigger),
            worker("supervisor", lambda: self.supervisor.run(stopping), self.supervisor.trigger),
            worker("life", lambda: self._process_monitor.run(stopping), self._process_monitor.stop),
            worker("address", lambda: self._addresses.run(stopping)),
            worker("peers", lambda: self._peers.run(stopping)),
            worker("controller", self._spec.run, self._spec.stop),
            worker("status", lambda: self._status.run(stopping), self._status.stop),
            *endpoint_components(
                self._settings.imex_http_endpoint,
                self._settings.metrics_path,
                Health(self.health),
                self.registry,
            ),
        ]

    def problems(self) -> list[str]:
        """Whether the socket still exists. Loops are checked by their heartbeats."""
        path = self._settings.imex_dir / SOCKET
        return [] if path.is_socket() else [f"{path} was removed"]

    def health(self) -> list[str]:
        """``problems`` and a silent unit broker, which a restart of this service does not repair."""
        try:
            self._units.ping(Deadline(PING_S, self.clock))
        except HostError as error:
            return [*self.problems(), str(error)]
        return self.problems()

    def channel_count(self) -> int:
        """IMEX channels that this node's driver has."""
        return fabric.channel_count(
            self._files.read(self._settings.proc_root / "driver/nvidia/params")
        )

    def _open(self) -> None:
        self.supervisor.open()
        self._addresses.scan(may_query_api=False)
        if self._settings.imex_encryption == "required":
            self._request = self._certificate.request()
        heartbeat = self.workers.heartbeat("supervisor", MAX_SILENCE_S)
        self.supervisor.subscribe(heartbeat.beat)
        self.supervisor.subscribe(self._status.changed)

    def _serve(self) -> None:
        deadline = Deadline(SOCKET_WAIT_S, self.clock)
        self._lock.acquire(deadline, self.workers.stopping)
        sockets.remove_stale(self._server.path, deadline, self.clock)
        self._server.start()

    def _stop_serving(self, deadline: Deadline) -> None:
        self._service.stop()
        self._server.stop(min(STOP_GRACE_S, deadline.remaining_s()))
        self._lock.release()

    def _take(self, spec: FabricNodeSpec | None, generation: int) -> None:
        """Apply the controller's spec: the certificate first, because the daemon may need it for the rest."""
        if spec is not None:
            self._certificate.install(spec.certificate, self.supervisor.reload_daemon)
        is_first = spec is not None and self.supervisor.snapshot.situation.spec is None
        self.supervisor.set_spec(spec, generation)
        if is_first:
            self._status.retry()

    def _report(self) -> tuple[FabricNodeStatus, float]:
        """The FabricNode status, and the longest time between two writes in seconds."""
        snapshot = self.supervisor.snapshot
        if self._version is None:  # queried once: the answer does not change
            self._version = self._ctl.version(Deadline(VERSION_S, self.clock))
        view = snapshot.view
        machine = report.Machine(
            boot_id=self._boot_id,
            imex_version=(view.version if view is not None else "") or self._version,
            channel_count=self.channel_count(),
            certificate_request=self._request,
        )
        spec = snapshot.situation.spec
        heartbeat_s = spec.heartbeat_seconds if spec is not None else report.DEFAULT_HEARTBEAT_S
        return report.status(snapshot, machine, self._layout), max(1.0, float(heartbeat_s))


def gates_of(settings: config.NodeConfig) -> FeatureGates:
    """The gates, checked. Raises ConfigError."""
    gates = checked_gates(settings)
    is_hosted = settings.imex_mode == Mode.HOST_MANAGED.value
    if is_hosted and not gates.enabled(Gate.HOST_MANAGED_IMEX_DAEMON):
        raise ConfigError(
            "imexMode is 'hostManaged', but the feature gate HostManagedIMEXDaemon is off; set featureGates:"
            " {HostManagedIMEXDaemon: true}"
        )
    return gates


def policy(settings: config.NodeConfig) -> Policy:
    """The settings that the supervisor decides by."""
    return Policy(
        mode=Mode(settings.imex_mode),
        after_abrupt_end=AfterAbruptEnd(settings.imex_after_abrupt_end),
        linger_s=settings.imex_linger_s,
        needs_encryption=settings.imex_encryption == "required",
    )


def _unit(
    settings: config.NodeConfig, host: Host, monitor: ProcessMonitor, units: BrokerUnits
) -> SystemdClient:
    name = HOST_UNIT if settings.imex_mode == Mode.HOST_MANAGED.value else UNIT
    return SystemdClient(units, host.commands, settings.journalctl_path, monitor.open, name)


def _ctl(settings: config.NodeConfig, host: Host, layout: Layout) -> ImexCtl:
    ctl, imex = settings.imex_ctl_path, settings.imex_path
    if settings.imex_mode == Mode.HOST_MANAGED.value:
        return ImexCtl(host.commands, ctl, imex, None, settings.imex_host_socket_path)
    return ImexCtl(host.commands, ctl, imex, layout.config, layout.commands)
