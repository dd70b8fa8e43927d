"""One controller of a rack in threads of this process, and waiting for what it does."""

from __future__ import annotations

from kubernetes.client import Configuration

from nvdra_cluster.app import Manager
from nvdra_cluster.control.state import decode
from nvdra_cluster.decide.model import DOMAIN_LABEL
from nvdra_cluster.decide.writes import DOMAINS, FABRIC_NODES
from nvdra_cluster.kube.client import KubernetesClient
from nvdra_cluster.kube.config import AccessConfig
from nvdra_cluster.settings import ControllerSettings
from nvdra_core.kube.retry import Backoff
from nvdra_core.kube.transport import TransportSettings
from nvdra_core.runtime.clock import Clock, Deadline, SystemClock
from nvdra_core.runtime.workers import Heartbeat, Workers
from tests.fakes.apiserver.server import FakeApiServer
from tests.lib.waits import wait_until

FAST = TransportSettings(
    request_timeout_s=10.0, attempt_timeout_s=5.0, backoff=Backoff(first_s=0.02, limit_s=0.2)
)


def access_of(server: FakeApiServer) -> AccessConfig:
    """The administrator's access to a fake API server."""
    config = server.config()

    def load() -> Configuration:
        found = Configuration(host=config.server)
        found.api_key["BearerToken"] = f"Bearer {config.token}"
        found.ssl_ca_cert = config.ca_file or None
        return found

    return AccessConfig(load)


class ShiftedClock(SystemClock):
    """The machine's clock, which a test can put forward."""

    def __init__(self) -> None:
        self._shift_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self._shift_s

    def wall(self) -> float:
        return super().wall() + self._shift_s

    def advance(self, seconds: float) -> None:
        self._shift_s += seconds


class _Rounds(Heartbeat):
    """A sign of life that counts the rounds of its loop."""

    __slots__ = ("count",)

    def __init__(self, name: str, max_silence_s: float, clock: Clock) -> None:
        super().__init__(name, max_silence_s, clock)
        self.count = 0

    def beat(self) -> None:
        super().beat()
        self.count += 1


class _Workers(Workers):
    """Knows how often its one loop went round."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.rounds = _Rounds("none yet", 0.0, clock)

    def heartbeat(self, name: str, max_silence_s: float) -> Heartbeat:
        self.rounds = _Rounds(name, max_silence_s, self._clock)
        return self.rounds


class Replica:
    """A controller in threads of this process."""

    def __init__(self, server: FakeApiServer, settings: ControllerSettings, clock: Clock) -> None:  # fmt: skip
        self.client = KubernetesClient(access_of(server), clock, FAST)
        self.workers = _Workers(clock)
        self.manager = Manager(settings, self.client, clock, self.workers)
        self._parts = self.manager.components()
        for part in self._parts:
            part.start()

    def wake(self) -> None:
        """Let the reconcile loop read its clock now."""
        self.manager.cache.queue.wake()

    def go_round(self) -> None:
        """Return after a whole round of the loop that began after this call; only of one that leads."""
        wait_until("it leads", self.manager.is_leading)
        goal = self.workers.rounds.count + 2

        def is_there() -> bool:
            self.wake()
            return self.workers.rounds.count >= goal

        wait_until("the loop went round", is_there)

    def has_seen(self, server: FakeApiServer) -> bool:
        """Whether its watches have delivered all events about domains."""
        cache = self.manager.cache
        fabrics = [decode.fabric(obj) for obj in server.objects("fabricnodes", FABRIC_NODES.group)]
        domains = [decode.domain(obj) for obj in server.objects("computedomains", DOMAINS.group)]
        claims = [
            decode.claim(obj)
            for obj in server.objects("resourceclaims")
            if DOMAIN_LABEL in obj["metadata"].get("labels", {})
        ]
        templates = [
            decode.template(obj)
            for obj in server.objects("resourceclaimtemplates")
            if DOMAIN_LABEL in obj["metadata"].get("labels", {})
        ]
        with cache.lock:
            return (
                cache.fabrics == {view.name: view for view in fabrics}
                and cache.domains == {view.uid: view for view in domains}
                and cache.claims == {view.path: view for view in claims}
                and set(cache.templates.values()) == set(templates)
            )

    def stop(self) -> None:
        self.workers.stopping.set()
        deadline = Deadline(10.0, SystemClock())
        for part in reversed(self._parts):
            part.stop(deadline)
        assert self.workers.join(deadline) == []  # the Lease is given back
        self.client.close()

    def crash(self) -> None:
        """End without giving anything back."""
        self.client.close()
        self.stop()
