"""Assembles the controller: reflectors, leader election, reconcile loop, metrics. Nothing starts before ``run``.

Only a replica whose reflectors have synced runs for leader. A new leader relists everything before its first decision.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable

from nvdra_cluster.control.controller import Controller
from nvdra_cluster.control.leader_election import LeaderElector
from nvdra_cluster.control.metrics import ControllerCollector
from nvdra_cluster.control.reconciler import CertificateIssuer, Reconciler
from nvdra_cluster.control.reflectors import CacheReflector, selections
from nvdra_cluster.control.state.cache import Cache
from nvdra_cluster.control.writer import Writer
from nvdra_cluster.kube.client import KubernetesClient
from nvdra_cluster.settings import ControllerSettings
from nvdra_core import __version__
from nvdra_core.kube.client import ResourceClient
from nvdra_core.runtime import endpoint, log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_core.runtime.metrics import new_registry
from nvdra_core.runtime.service import Component, FunctionComponent, Service
from nvdra_core.runtime.systemd import Notifier
from nvdra_core.runtime.workers import Workers

_LOG = log.get(__name__)
SYNC_POLL_S = 0.5
MAX_SILENCE_S = 180.0
"""One pass of the reconcile loop may wait this long for an API server that does not answer."""
STOP_GRACE_S = 5.0
"""For requests in progress when the process stops."""


class Manager:
    """One replica."""

    def __init__(
        self,
        settings: ControllerSettings,
        client: KubernetesClient,
        clock: Clock,
        workers: Workers,
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._clock = clock
        self._client = client
        self._leading = threading.Event()
        self.registry = new_registry(__version__)
        self.elector = LeaderElector(
            client=client,
            settings=settings,
            clock=clock,
            stopping=workers.stopping,
        )
        self.cache = Cache(clock.monotonic)
        issuer, refresh, ca_ends_s = _certificates(settings, client, clock, self.cache)
        self.writer = Writer(client, clock, self.leads_for_s, self.registry)
        self.controller = Controller(
            cache=self.cache,
            reconciler=Reconciler(self.cache, settings.fabric, self.registry, issuer),
            writer=self.writer,
            client=client,
            clock=clock,
            stopping=workers.stopping,
            refresh=refresh,
        )
        self.reflectors = [
            CacheReflector(one, client.list_watch(one.resource, one.namespace, one.selector), clock)
            for one in selections(self.cache, self.controller, settings.fabric)
        ]
        self.registry.register(ControllerCollector(self.cache, self.is_leading, ca_ends_s))

    def is_leading(self) -> bool:
        """Whether this replica may write now."""
        return self.leads_for_s() > 0.0

    def leads_for_s(self) -> float:
        """Seconds until leadership ends unless the Lease is renewed."""
        if not self._settings.is_elected:
            return math.inf if self._leading.is_set() else 0.0
        return self.elector.leads_for_s()

    def is_synced(self) -> bool:
        """Whether every reflector has listed its objects once."""
        return all(one.reflector.synced.is_set() for one in self.reflectors)

    def components(self) -> list[Component]:
        """In the order of starting."""
        return [
            FunctionComponent(name="API client", end=lambda deadline: self._close_client()),
            FunctionComponent(
                name="watches",
                begin=self._start_watches,
                end=lambda deadline: self._stop_watches(),
            ),
            FunctionComponent(
                name="controller", begin=self._start, end=lambda deadline: self._stop()
            ),
            *self._endpoint(),
        ]

    def service(self, notifier: Notifier) -> Service:
        """The process; ``run`` it in the main thread."""
        return Service(
            components=self.components(),
            workers=self._workers,
            clock=self._clock,
            notifier=notifier,
            self_check=list,
        )

    def _start_watches(self) -> None:
        for one in self.reflectors:
            self._workers.spawn(f"watch-{one.name}", one.reflector.run)

    def _stop_watches(self) -> None:
        for one in self.reflectors:
            one.reflector.stop()

    def _close_client(self) -> None:
        """Give the last writes and the release of the Lease some time, then end what waits for the API server."""
        self._workers.join(Deadline(STOP_GRACE_S, self._clock))
        self._client.close()

    def _start(self) -> None:
        if self._settings.is_elected:
            self._workers.spawn("lease", self._run_for_leader)
        self._workers.spawn("controller", self._lead)

    def _stop(self) -> None:
        self._leading.set()
        self.controller.report_verifier.wake()
        self.cache.queue.shut_down()
        self.writer.stop()

    def _wait_for_sync(self) -> None:
        self._wait_for(one.reflector.synced for one in self.reflectors)

    def _wait_for(self, events: Iterable[threading.Event]) -> None:
        for event in events:
            while not self._workers.stopping.is_set() and not event.wait(SYNC_POLL_S):
                continue

    def _run_for_leader(self) -> None:
        self._wait_for_sync()
        self.elector.run(self._leading.set)

    def _lead(self) -> None:
        self._wait_for_sync()
        if not self._settings.is_elected:
            self._leading.set()
        self._leading.wait()
        # A leader that cannot read everything must end, so that another replica can lead.
        heartbeat = self._workers.heartbeat("reconcile loop", MAX_SILENCE_S)
        try:
            if self._settings.is_elected:
                self._relist()
            if self._workers.stopping.is_set():
                return
            _LOG.info("reconciling", domains=len(self.cache.domains), nodes=len(self.cache.fabrics))
            self._workers.spawn("verifier", self._verify)
            self.controller.lead(heartbeat)
        finally:
            self.writer.close()
            self.elector.idle.set()

    def _verify(self) -> None:
        self.controller.report_verifier.run(self._workers.stopping)

    def _relist(self) -> None:
        """List everything the previous leader wrote: the watches may lag."""
        for one in self.reflectors:
            one.reflector.relist()
        self._wait_for(one.reflector.relisted for one in self.reflectors)

    def _endpoint(self) -> list[Component]:
        settings = self._settings
        if not settings.http_endpoint:
            return []
        routes = {
            "/healthz": endpoint.health_route(self._workers.problems),
            "/readyz": endpoint.health_route(self.unready),
        }
        if settings.metrics_path:
            routes[settings.metrics_path] = endpoint.metrics_route(self.registry)
        address = endpoint.Address.parse(settings.http_endpoint)
        return [endpoint.Endpoint(address, routes)]

    def unready(self) -> list[str]:
        """Why this replica could not lead; empty when it could."""
        return [problem for one in self.reflectors if (problem := one.problem())]


def _certificates(
    settings: ControllerSettings, client: ResourceClient, clock: Clock, cache: Cache
) -> tuple[CertificateIssuer | None, Callable[[], None], Callable[[], float | None]]:
    """The issuer of certificates, its refresh, and the expiry of its CA."""
    if not settings.issues_certificates:
        return None, lambda: None, lambda: None
    # Imported here: cryptography takes 15 MB, which a cluster without TLS between peers does not need.
    from nvdra_cluster.control.certificates.signer import CertificateSigner

    namespace = settings.fabric.namespace
    signer = CertificateSigner(client, namespace, clock, cache.trusted_authorities)
    return signer, signer.refresh, signer.ca_ends_s
