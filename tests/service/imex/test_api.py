"""The supervisor's API writes, its spec reflector, and its gRPC service."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from nvdra_core.api.fabric import FabricDomainStatus, FabricNodeStatus
from nvdra_core.errors import ClaimError, NotReadyError
from nvdra_core.kube.resources import FABRIC_NODES
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.computedomain.effects import JoinDomain
from nvdra_node.computedomain.supervisor_client import GrpcSupervisorClient, HeldClaim
from nvdra_node.imex.report.writer import FORMING_S, MAX_DELAY_S, PEERS_S, StatusWriter
from nvdra_node.imex.service import SupervisorService
from nvdra_node.imex.sources.spec import SpecReflector
from nvdra_node.imex.supervisor import Supervisor
from nvdra_node.kube.client import Client
from nvdra_node.rpc.messages import supervisor_v1_pb2 as pb
from nvdra_node.rpc.server import UnixServer
from tests.beds.memory.imex_node import ImexNode, a_domain
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.server import FakeApiServer
from tests.fakes.clock import FakeClock
from tests.lib.waits import wait_until

NODE = "node"


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as server:
        body = {
            "apiVersion": "fabric.nvdra.io/v1alpha1",
            "kind": "FabricNode",
            "metadata": {"name": NODE},
        }
        server.add({**body, "spec": {}})
        server.add({**body, "metadata": {"name": "other"}, "spec": {}})
        yield server


@pytest.fixture
def client(server: FakeApiServer) -> Iterator[Client]:
    made = Client(server.config())
    yield made
    made.close()


def read(client):
    return client.get(FABRIC_NODES, NODE, deadline=Deadline(5, SystemClock()))


class TestStatus:
    def writer(self, client):
        self.clock = FakeClock()
        self.status = FabricNodeStatus(boot_id="b1")
        return StatusWriter(client, FABRIC_NODES, NODE, lambda: (self.status, 10.0), self.clock)

    def test_change_is_written_at_once_and_heartbeats_follow(self, client):
        writer = self.writer(client)
        assert writer.write_if_due() == 10.0
        first = read(client)["status"]
        assert first["bootID"] == "b1"
        assert writer.write_if_due() <= 10.0 and writer.writes == 1
        self.clock.advance(11)
        writer.write_if_due()
        assert writer.writes == 2
        assert read(client)["status"]["heartbeatTime"] != first["heartbeatTime"]
        self.status = replace(self.status, addresses=("10.0.0.2",))
        writer.write_if_due()
        assert writer.writes == 3

    def test_changes_without_urgency_are_gathered(self, client):
        writer = self.writer(client)
        writer.write_if_due()
        peers = [FabricDomainStatus(uid="d", ready=True, peers_connected=n) for n in range(4)]
        self.status = replace(self.status, domains=(peers[0],))
        writer.write_if_due()
        assert writer.writes == 2, "a ready domain is urgent"
        for found in peers[1:]:
            self.status = replace(self.status, domains=(found,))
            assert 0 < writer.write_if_due() <= MAX_DELAY_S
            self.clock.advance(MAX_DELAY_S / 4)
        self.clock.advance(MAX_DELAY_S / 4)
        writer.write_if_due()
        assert writer.writes == 3
        assert read(client)["status"]["domains"][0]["peersConnected"] == 3
        self.status = replace(self.status, domains=())
        writer.write_if_due()
        assert writer.writes == 4, "a domain that was left is urgent"

    def test_connected_peers_are_written_together(self, client):
        writer = self.writer(client)
        for count in range(1, 9):
            domain = FabricDomainStatus(
                uid="d", ready=True, peers_connected=count, peers_known=count
            )
            self.status = replace(self.status, domains=(domain,))
            writer.write_if_due()
            self.clock.advance(0.5)
        self.clock.advance(PEERS_S)
        writer.write_if_due()
        assert writer.writes == 3
        assert read(client)["status"]["domains"][0]["peersConnected"] == 8

    def test_ready_domain_and_its_peers_are_one_write(self, client):
        writer = self.writer(client)
        writer.write_if_due()
        joined = FabricDomainStatus(uid="d", peers_known=3)
        self.status = replace(self.status, domains=(joined,))
        assert writer.write_if_due() > 0
        self.clock.advance(FORMING_S + 1)
        for count in range(4):
            domain = FabricDomainStatus(uid="d", ready=True, peers_connected=count, peers_known=3)
            self.status = replace(self.status, domains=(domain,))
            writer.write_if_due()
            assert writer.writes == (2 if count == 3 else 1)
            self.clock.advance(0.5)
        assert read(client)["status"]["domains"][0]["peersConnected"] == 3

    def test_missing_peers_delay_readiness_by_seconds_only(self, client):
        writer = self.writer(client)
        writer.write_if_due()
        for uid in ("d", "e"):
            domain = FabricDomainStatus(uid=uid, ready=True, peers_known=3)
            self.status = replace(self.status, domains=(domain,))
            before = writer.writes
            assert 0 < writer.write_if_due() <= FORMING_S and writer.writes == before
            self.clock.advance(FORMING_S)
            writer.write_if_due()
            assert writer.writes == before + 1
            self.status = replace(self.status, domains=())
            writer.write_if_due()

    def test_first_report_waits_until_the_daemon_was_observed(self, client):
        unsettled_s = [20.0]
        self.clock, self.status = FakeClock(), FabricNodeStatus(boot_id="b1")
        writer = StatusWriter(client, FABRIC_NODES, NODE, lambda: (self.status, 10.0), self.clock)
        writer.delay_first_write(lambda: unsettled_s[0])
        assert writer.write_if_due() < 1 and writer.writes == 0
        self.clock.advance(5)
        assert writer.write_if_due() < 1 and writer.writes == 0
        unsettled_s[0] = 4.0
        writer.write_if_due()
        assert writer.writes == 1
        unsettled_s[0] = 20.0
        self.clock.advance(10)
        writer.write_if_due()
        assert writer.writes == 2, "only the first one waits"

    def test_emptied_field_is_removed(self, client):
        writer = self.writer(client)
        self.status = replace(self.status, fabric_message="sick")
        writer.write_if_due()
        self.status = replace(self.status, fabric_message="")
        writer.write_if_due()
        self.clock.advance(MAX_DELAY_S)
        writer.write_if_due()
        assert "fabricMessage" not in read(client)["status"]

    def test_failed_write_is_repeated_with_backoff(self, client):
        clock = FakeClock()
        writer = StatusWriter(
            client, FABRIC_NODES, "no-such-node", lambda: (FabricNodeStatus(), 10.0), clock
        )
        pauses_s = []
        for _ in range(5):
            pauses_s.append(writer.write_if_due())
            clock.advance(pauses_s[-1])
        assert pauses_s == [1.0, 2.0, 5.0, 10.0, 10.0]

    def test_change_does_not_shorten_the_backoff(self, client, server):
        server.api.faults.add(
            Fault(resource="fabricnodes/status", code=429, retry_after_s=30, count=0)
        )
        writer = self.writer(client)
        writer.write_if_due()
        asked = len(server.api.log.lines())
        for number in range(20):
            self.status = replace(self.status, boot_id=f"b{number}")
            writer.changed()
            assert writer.write_if_due() > 0
            self.clock.advance(0.04)
        assert len(server.api.log.lines()) == asked

    def test_new_object_is_written_at_once(self, client, server):
        clock = FakeClock()
        writer = StatusWriter(
            client, FABRIC_NODES, "late", lambda: (FabricNodeStatus(), 10.0), clock
        )
        assert writer.write_if_due() == 1.0
        server.add(
            {"apiVersion": "fabric.nvdra.io/v1alpha1", "kind": "FabricNode",
             "metadata": {"name": "late"}, "spec": {}}
        )  # fmt: skip
        writer.retry()
        assert writer.write_if_due() == 10.0 and writer.writes == 1


class TestSpec:
    def test_spec_of_the_own_object_is_followed(self, client):
        seen = []
        watch = SpecReflector(
            client, FABRIC_NODES, NODE, lambda spec, generation: seen.append(spec)
        )
        thread = threading.Thread(target=watch.run)
        thread.start()
        try:
            wait_until("the first spec", lambda: seen and seen[-1] is not None)
            body = {
                "apiVersion": "fabric.nvdra.io/v1alpha1",
                "kind": "FabricNode",
                "metadata": {"name": NODE},
            }
            client.merge_patch(
                FABRIC_NODES, {**body, "spec": {"slot": 4}}, deadline=Deadline(5, SystemClock())
            )
            wait_until("the change", lambda: getattr(seen[-1], "slot", None) == 4)
            client.merge_patch(
                FABRIC_NODES,
                {**body, "spec": {"slot": "four"}},
                deadline=Deadline(5, SystemClock()),
            )
            client.merge_patch(
                FABRIC_NODES, {**body, "spec": {"slot": 5}}, deadline=Deadline(5, SystemClock())
            )
            wait_until(
                "an unreadable spec is ignored",
                lambda: getattr(seen[-1], "slot", None) == 5,
            )
            client.delete(FABRIC_NODES, NODE, deadline=Deadline(5, SystemClock()))
            wait_until("the end", lambda: seen[-1] is None)
        finally:
            watch.stop()
            thread.join(60)
        assert not thread.is_alive()


class CancelledContext:
    """Context of a call whose caller has left."""

    def is_active(self):
        return False


class TestSocket:
    @pytest.fixture
    def supervisor(self) -> Iterator[Supervisor]:
        node = ImexNode(clock=SystemClock())
        self.node = node
        self.directory = Path(tempfile.mkdtemp(prefix="nvdra-"))
        service = SupervisorService(node.supervisor, lambda: 2048, SystemClock())
        self.service = service
        server = UnixServer(self.directory / "s.sock", [service.add_to])
        stopping = threading.Event()
        loop = threading.Thread(target=node.supervisor.run, args=(stopping,))
        loop.start()
        server.start()
        self.client = GrpcSupervisorClient(self.directory / "s.sock")
        yield node.supervisor
        self.client.close()
        stopping.set()
        node.supervisor.trigger()
        loop.join()
        service.stop()
        server.stop(0.0)
        shutil.rmtree(self.directory)

    def join(self, uid="c1", domain="A", namespace="ns", wait_s=15.0):
        return self.client.join(
            JoinDomain(domain_uid=domain, namespace=namespace, name=uid, uid=uid), wait_s
        )

    def test_claim_waits_for_its_domain_and_gets_the_channel(self, supervisor):
        with pytest.raises(NotReadyError, match="WaitingForDomain"):
            self.node.assign()
            self.join(wait_s=0.3)
        threading.Timer(0.3, lambda: self.node.assign(a_domain(channel=7))).start()
        found = self.join(wait_s=10.0)
        assert (found.channel, found.channel_count, found.has_fabric) == (7, 2048, True)

    def test_stop_completes_waiting_join(self, supervisor):
        self.node.assign()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.join, wait_s=15.0)
            wait_until("the join waits", lambda: supervisor.claims.waiting_count)
            self.service.stop()
            with pytest.raises(NotReadyError):
                waiting.result(5.0)

    def test_refused_claim_is_a_claim_error(self, supervisor):
        self.node.assign(a_domain())
        with pytest.raises(ClaimError, match="own namespace only"):
            self.join(namespace="attacker")

    def test_watcher_receives_changes(self, supervisor):
        views = self.client.watch()
        assert next(view for view in views if view.fabric_state)
        self.node.assign(a_domain())
        assert list(next(view for view in views if view.domains).domains) == ["A"]
        self.join()
        view = next(view for view in views if view.domains["A"].is_ready)
        assert view.imex_state == "READY"

    def test_leave_and_sync_change_the_holders(self, supervisor):
        self.node.assign(a_domain())
        self.join("c1")
        self.join("c2")
        self.client.leave("c1")
        assert set(supervisor.claims.holders) == {"c2"}
        effect = JoinDomain(domain_uid="A", namespace="ns", name="c3", uid="c3")
        for _ in range(2):
            self.client.sync([HeldClaim(effect, True)])
        assert set(supervisor.claims.holders) == {"c3"}
        assert supervisor.claims.holders["c3"].is_admitted

    def test_100_waiting_joins_block_no_leave(self, supervisor):
        def wait(number):
            with contextlib.suppress(NotReadyError):
                self.join(f"c{number}", wait_s=15.0)

        self.node.assign()
        with ThreadPoolExecutor(100) as pool:
            joins = [pool.submit(wait, number) for number in range(100)]
            deadline = Deadline(30.0, SystemClock())
            while supervisor.claims.waiting_count < 100:
                deadline.check("all joins wait")
            self.client.leave("c0")
            assert not joins[1].done()
            self.node.assign(a_domain())
        assert len(supervisor.claims.holders) == 99

    def test_join_of_a_departed_caller_adds_no_holder(self, supervisor):
        self.node.assign(a_domain())
        request = pb.JoinRequest(
            claim=pb.Claim(namespace="ns", name="c1", uid="c1"), domain_uid="A", wait_ms=1000
        )
        self.service.Join(request, CancelledContext())
        assert supervisor.claims.holders == {}

    def test_missing_supervisor_is_an_error_with_its_unit(self):
        client = GrpcSupervisorClient(Path("/tmp/nvdra-no-such.sock"))
        with pytest.raises(NotReadyError, match="nvdra-imex-supervisor"):
            client.leave("c1")
        client.close()
