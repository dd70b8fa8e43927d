"""A rack for the controller's service tests: an API server in memory, trays with fake supervisors, users, replicas."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from nvdra_cluster.decide.writes import CLIQUES, DOMAINS, FABRIC_NODES, TEMPLATES
from nvdra_cluster.settings import ControllerSettings, FabricSettings, LeaseTimes
from nvdra_core.errors import ApiError
from nvdra_core.kube.resources import CLAIMS, NODES, SLICES, JsonObject
from nvdra_node.kube.client import Client
from tests.beds.services.replica import FAST, Replica, ShiftedClock
from tests.fakes.apiserver.server import FakeApiServer
from tests.lib import objects
from tests.lib.objects import obj
from tests.lib.waits import wait_until

CLIQUE = "7b968a6d-c8aa-45e1-9e07-e1e51be99c31.32766"
NAMESPACE = "nvdra"
TEAM = "team"
DRIVER = "compute-domain.nvidia.com"
EAGER_LEASE = LeaseTimes(duration_s=120.0, renew_deadline_s=80.0, retry_period_s=0.02)
"""Looked at all the time; it ends when a test puts the clock forward, and never by waiting."""


class Rack:
    """See the module; a context manager."""

    def __init__(
        self,
        fabric: FabricSettings | None = None,
        *,
        is_elected: bool = False,
        issues_certificates: bool = False,
    ) -> None:
        self.fabric = fabric or FabricSettings()
        self.clock = ShiftedClock()
        self.issues_certificates = issues_certificates
        self.is_elected = is_elected
        self.server = FakeApiServer()
        self.server.start()
        for name in (NAMESPACE, TEAM):
            self.server.add(obj("Namespace", name))
        self.client = Client(self.server.config(), settings=FAST)
        self.replicas: list[Replica] = []
        self.claim_uids: dict[str, str] = {}

    def __enter__(self) -> Rack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for replica in self.replicas:
            replica.stop()
        self.client.close()
        self.server.stop()

    def start(self, identity: str = "one") -> Replica:
        settings = ControllerSettings(
            fabric=self.fabric,
            identity=identity,
            is_elected=self.is_elected,
            lease_namespace=NAMESPACE,
            lease_times=EAGER_LEASE,
            issues_certificates=self.issues_certificates,
        )
        replica = Replica(self.server, settings, self.clock)
        self.replicas.append(replica)
        return replica

    def stop_controllers(self) -> None:
        while self.replicas:
            self.replicas.pop().stop()

    # Time.

    def advance(self, seconds: float) -> None:
        """Put the controllers' clock forward, and let them notice."""
        self.clock.advance(seconds)
        for replica in self.replicas:
            replica.wake()

    def settle(self) -> None:
        """Wait until the controller knows everything and has nothing to do."""
        (replica,) = self.replicas

        def is_quiet() -> bool:
            writes = self.writes()
            if not replica.has_seen(self.server):
                return False
            replica.go_round()
            controller = replica.manager.controller
            is_idle = controller.report_verifier.is_idle() and controller.cache.queue.is_idle()
            return is_idle and writes == self.writes()

        wait_until("the controller is quiet", is_quiet)
        assert replica.workers.failure is None

    def settle_reports(self) -> None:
        """Wait until every report that can be verified now has been, and the controller has acted on that."""
        (replica,) = self.replicas
        wait_until("reports are verified", replica.manager.controller.report_verifier.is_idle)
        replica.go_round()

    # What is in the API.

    def find(self, resource: Any, name: str, namespace: str = "") -> JsonObject | None:
        try:
            return self.client.get(resource, name, namespace=namespace)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def domain(self, name: str = "train") -> JsonObject:
        return self.client.get(DOMAINS, name, namespace=TEAM)

    def status(self, name: str = "train") -> JsonObject:
        found = self.find(DOMAINS, name, TEAM)
        status: JsonObject = (found or {}).get("status") or {}
        return status

    def condition(self, kind: str, name: str = "train") -> JsonObject:
        for condition in self.status(name).get("conditions") or ():
            if condition["type"] == kind:
                found: JsonObject = condition
                return found
        return {}

    def spec(self, node: str) -> JsonObject:
        found = self.find(FABRIC_NODES, node)
        spec: JsonObject = (found or {}).get("spec") or {}
        return spec

    def template(self, name: str = "train-channel") -> JsonObject | None:
        return self.find(TEMPLATES, name, TEAM)

    def cliques(self) -> list[JsonObject]:
        return self.client.list(CLIQUES, namespace=NAMESPACE).items

    def writes(self) -> int:
        """Writes since the log was cleared, of whatever kind."""
        log = self.server.api.log
        return sum(log.count(verb) for verb in ("create", "update", "patch", "delete"))

    # What users do.

    def create_domain(self, name: str = "train", nodes: int = 0, **channel: Any) -> JsonObject:
        return self.client.create(DOMAINS, objects.domain(name, TEAM, nodes=nodes, **channel))

    def claim(self, node: str, name: str = "train", *, by_hand: bool = False, on: str = "") -> str:
        """A pod's claim, made from the domain's template and allocated from ``node``'s pool; made by hand it
        has no label. ``on``: the node that published the pool, where that is another one.
        """
        template = wait_until("the template is there", lambda: self.template(f"{name}-channel"))
        claim_name = f"{name}-{node}"
        spec = template["spec"]
        made = obj(
            "ResourceClaim",
            claim_name,
            TEAM,
            meta={"labels": {} if by_hand else spec["metadata"]["labels"]},
            spec={"devices": {"requests": spec["spec"]["devices"]["requests"]}},
        )
        self.client.create(CLAIMS, made)
        result = objects.result("channel-0", node, "channel", DRIVER)
        config = [{"source": "FromClaim", **one} for one in spec["spec"]["devices"]["config"]]
        status = {
            "allocation": objects.allocation(result, node=on or node, config=config),
            "reservedFor": objects.reserved_for(f"pod-{node}"),
        }
        self.client.merge_patch(
            CLAIMS.sub("status"),
            {"metadata": {"name": claim_name, "namespace": TEAM}, "status": status},
        )
        self.claim_uids[claim_name] = self.client.get(CLAIMS, claim_name, namespace=TEAM)[
            "metadata"
        ]["uid"]
        return claim_name

    def unclaim(self, node: str, name: str = "train") -> None:
        self.client.delete(CLAIMS, f"{name}-{node}", namespace=TEAM)

    def tray(self, name: str, clique: str = CLIQUE) -> Tray:
        """A node that publishes compute-domain devices."""
        self.server.add(obj("Node", name))
        devices = [objects.channel()]
        self.server.add(objects.resource_slice(f"slice-{name}", name, devices, driver=DRIVER))
        return Tray(self, name, clique)

    def remove_node(self, name: str) -> None:
        self.client.delete(NODES, name)
        self.client.delete(SLICES, f"slice-{name}")


class Tray:
    """A node's supervisor, as far as the API sees it."""

    def __init__(self, rack: Rack, name: str, clique: str) -> None:
        self.rack = rack
        self.name = name
        self.clique = clique
        self.boot = "boot-1"
        self.running: int | None = None
        self.domain_uid = ""
        self.request = ""
        self.peers_connected = 4095
        """Enough for every domain; tests about peers set less."""
        self.beats = 0
        self._domains: list[JsonObject] = []

    def report(self, **changes: Any) -> None:
        """Write the status, with a new heartbeat, as the supervisor does."""
        wait_until(
            f"FabricNode {self.name} is there", lambda: self.rack.find(FABRIC_NODES, self.name)
        )
        self.beats += 1
        imex: JsonObject = {"state": "STOPPED", "incarnation": None}
        if self.running is not None:
            imex = {
                "state": "READY",
                "incarnation": {
                    "bootID": self.boot, "invocationID": "i", "configHash": "h",
                    "slot": self.running, "domainUID": self.domain_uid,
                    "slotCount": self.rack.spec(self.name).get("slotCount", 0),
                },
            }  # fmt: skip
        if self.request:
            imex["certificateRequest"] = self.request
        status = {
            "bootID": self.boot,
            "cliqueID": self.clique,
            "addresses": [f"10.0.0.{len(self.name)}"],
            "fabricState": "Completed" if self.clique else "NotSupported",
            "imex": imex,
            "domains": self._domains,
            "heartbeatTime": f"2099-01-01T00:00:{self.beats % 60:02}.{self.beats:06}Z",
            **changes,
        }
        body = {"metadata": {"name": self.name}, "status": status}
        self.rack.client.merge_patch(FABRIC_NODES.sub("status"), body)

    def join(self, name: str = "train", *, claim: str = "") -> None:
        """Prepare a claim: wait for the domain in the spec, start IMEX, report ready."""
        uid = self.rack.domain(name)["metadata"]["uid"]
        claim = claim or f"{name}-{self.name}"
        held = {"namespace": TEAM, "name": claim, "uid": self.rack.claim_uids.get(claim, "none")}
        self._domains = [{"uid": uid, "ready": False, "reason": "Waiting", "claims": [held]}]
        self.report()
        spec = self.wait_for(lambda spec: any(d["uid"] == uid for d in spec.get("domains") or ()))
        if self.clique:
            spec = self.wait_for(lambda spec: spec.get("slot") is not None)
            self.running, self.domain_uid = spec["slot"], uid
        self._domains = [
            {"uid": uid, "ready": True, "claims": [held], "peersConnected": self.peers_connected}
        ]
        self.report()

    def leave(self) -> None:
        """The last claim is unprepared; IMEX stops."""
        self._domains, self.running, self.domain_uid = [], None, ""
        self.report()

    def wait_for(self, condition: Callable[[JsonObject], bool]) -> JsonObject:
        """The spec once it is so."""

        def matching() -> JsonObject | None:
            spec = self.rack.spec(self.name)
            return spec if condition(spec) else None

        found: JsonObject = wait_until(f"spec of {self.name}", matching)
        return found
