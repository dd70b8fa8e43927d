"""The node's FabricNode status, and queries of its peers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace

from nvdra_core.api.decode import decode_part
from nvdra_core.api.fabric import FabricNodeStatus, FabricState, ImexState, is_incarnation_current
from nvdra_node.imex.daemon.ctl import ImexDomainStatus
from nvdra_node.imex.model import Holder
from nvdra_node.imex.replies import OBSERVATION_MAX_AGE_S
from nvdra_node.imex.report import status as report
from nvdra_node.imex.sources.peer_monitor import LASTING_S, MISSING_PEERS_S, PEERS_S, PeerMonitor
from tests.beds.memory.imex_node import CLIQUE, FABRIC, ImexNode, a_domain, a_spec

CRDS = Path(__file__).resolve().parents[3] / "charts" / "nvdra" / "crds"


@pytest.fixture
def node() -> ImexNode:
    made = ImexNode()
    made.assign(a_domain())
    return made


def test_idle_node_reports_fabric_and_stopped_daemon(node):
    node.reconcile()
    found = node.status()
    assert (found.clique_id, found.fabric_state) == (CLIQUE, FabricState.COMPLETED)
    assert (found.imex.state, found.imex.incarnation, found.domains) == (
        ImexState.STOPPED,
        None,
        (),
    )
    assert found.observed_generation == 1


def test_running_daemon_is_reported_with_its_incarnation(node):
    node.join("c1")
    found = node.status()
    run = found.imex.incarnation
    found_run = (run.boot_id, run.invocation_id, run.slot, run.domain_uid)
    assert found_run == ("boot-1", "invocation-1", 2, "A")
    assert is_incarnation_current(a_spec(a_domain()), found)
    domain = node.domain_status()
    assert (domain.ready, [claim.uid for claim in domain.claims]) == (True, ["c1"])


def test_id_other_than_the_slot_outdates_the_report(node):
    node.join("c1")
    node.supervisor.set_view(ImexDomainStatus(own=3, connected=frozenset()))
    node.reconcile()
    assert not is_incarnation_current(a_spec(a_domain()), node.status())


def test_missing_peers_are_named_and_keep_the_domain_ready(node):
    node.join("c1")
    node.supervisor.set_view(
        ImexDomainStatus(own=2, connected=frozenset(), missing=frozenset({5, 7}))
    )
    domain = node.domain_status()
    assert (domain.ready, domain.reason, domain.peers_known) == (True, "PeersMissing", 1)
    assert "slot 5 (10.0.0.5, other)" in domain.message
    node.supervisor.set_view(ImexDomainStatus(own=2, connected=frozenset({5})))
    node.reconcile()
    domain = node.domain_status()
    assert (domain.reason, domain.peers_connected) == ("", 1)


def test_waiting_claim_is_reported_with_its_reason(node):
    node.join("c1", "unknown")
    domain = node.domain_status()
    assert (domain.uid, domain.ready, domain.reason) == ("unknown", False, "WaitingForDomain")


@pytest.fixture
def bounds():
    crd = yaml.safe_load((CRDS / "fabric.nvdra.io_fabricnodes.yaml").read_text())
    found = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    return found["properties"]["domains"]


def test_claims_beyond_the_schemas_limit_are_left_out(node, bounds):
    """The API server would refuse the status, and the node be considered lost because of one tenant with many pods."""
    in_one = bounds["items"]["properties"]["claims"]["maxItems"]
    claims = [Holder(0.0, "A", "ns", f"c{i}", f"uid-{i:04d}", True) for i in range(in_one + 50)]
    node.claims.sync(claims)
    node.reconcile()
    domain = node.domain_status()
    assert len(domain.claims) == in_one


def test_domains_beyond_the_limit_keep_the_served_one(node, bounds):
    node.assign(a_domain("z"))
    claims = [Holder(1.0, f"d{i:03d}", "ns", f"c{i}", f"uid-{i:04d}") for i in range(5 * 300)]
    claims = [replace(claim, domain_uid=f"d{i % 300:03d}") for i, claim in enumerate(claims)]
    node.claims.sync([Holder(0.0, "z", "ns", "c", "uid-z", True), *claims])
    node.reconcile()
    found = node.status()
    assert len(found.domains) == bounds["maxItems"]
    [served] = [domain for domain in found.domains if domain.uid == "z"]
    assert [claim.uid for claim in served.claims] == ["uid-z"]
    assert sum(len(domain.claims) for domain in found.domains) == 1024
    assert "<= 1024" in bounds["x-kubernetes-validations"][0]["rule"]


def test_texts_are_stable(node):
    node.daemon.fails_to_start = True
    node.join("c1")
    first = node.status()
    node.clock.advance(0.2)
    node.reconcile(1)
    assert node.status() == first


def without_nulls(body):
    """The result of a JSON merge patch."""
    if isinstance(body, list):
        return [without_nulls(each) for each in body]
    if not isinstance(body, dict):
        return body
    return {key: without_nulls(value) for key, value in body.items() if value is not None}


def test_patch_has_null_for_empty_fields(node):
    node.reconcile()
    body = report.encode(node.status(), "now")
    assert body["imex"]["incarnation"] is None
    assert body["domains"] is None


def test_status_is_read_back_as_written(node):
    node.join("c1")
    found = node.status()
    body = json.loads(json.dumps(report.encode(found, "2026-01-01T00:00:00Z")))
    again = decode_part(without_nulls(body), FabricNodeStatus, where="status", strict=True)
    assert again.heartbeat_time == "2026-01-01T00:00:00Z"
    assert (again.imex, again.domains) == (found.imex, found.domains)


def test_first_report_of_a_running_domain_waits_for_its_fabric(node):
    """NVML takes seconds, and a report without the clique makes the domain NotReady."""
    node.join("c1")
    node.start()
    node.reconcile()
    node.supervisor.set_view(ImexDomainStatus(own=2, connected=frozenset({5})))
    assert node.supervisor.snapshot.run is not None and not node.status().clique_id
    assert report.unsettled_s(node.supervisor.snapshot) == report.FIRST_OBSERVATION_S
    node.supervisor.set_fabric(FABRIC)
    node.reconcile()
    assert node.status().domains[0].ready and not report.unsettled_s(node.supervisor.snapshot)


def test_first_report_of_an_idle_node_waits_for_no_fabric():
    node = ImexNode()
    node.start()
    node.reconcile()
    assert not report.unsettled_s(node.supervisor.snapshot)


class TestFailingPasses:
    """The unit broker is down, or the disk is full."""

    def wait(self, node, seconds):
        for _ in range(seconds):
            node.clock.advance(1.0)
            node.reconcile(1)

    def test_failing_passes_make_the_domain_not_ready(self, node):
        node.join("c1")
        node.daemon.die()
        node.daemon.refuses_to = {"show"}
        self.wait(node, 3)
        assert node.status().domains[0].ready, "a restart of the broker is no reason"
        self.wait(node, int(OBSERVATION_MAX_AGE_S))
        domain = node.domain_status()
        assert (domain.ready, domain.reason) == (False, "ImexUnknown")
        assert [claim.uid for claim in domain.claims] == ["c1"]

    def test_failing_passes_after_restart_report_claims(self, node):
        """A status without them would free their domain and its port."""
        node.join("c1")
        node.daemon.refuses_to = {"show"}
        node.restart()
        self.wait(node, int(report.FIRST_OBSERVATION_S))
        found = node.status()
        assert found.clique_id == CLIQUE
        domain = node.domain_status()
        assert (domain.ready, [claim.uid for claim in domain.claims]) == (False, ["c1"])
        node.daemon.refuses_to = set()
        node.reconcile()
        assert node.status().domains[0].ready and node.daemon.history == ["start"]


def test_foreign_daemon_is_named(node):
    node.daemon.foreign = "nvidia-imex.service"
    node.reconcile()
    assert "nvidia-imex.service" in node.status().imex.message


def test_new_peer_is_not_reported_missing(node):
    node.join("c1")
    node.supervisor.set_view(ImexDomainStatus(own=2, connected=frozenset()))
    domain = node.domain_status()
    assert (domain.reason, domain.peers_connected, domain.peers_known) == ("", 0, 1)


class TestPeerMonitor:
    def test_peer_is_missing_after_a_while(self, node):
        watch = PeerMonitor(node.daemon, node.clock, node.supervisor)
        node.join("c1")
        node.daemon.view = ImexDomainStatus(own=2, connected=frozenset())
        began_s = node.clock.monotonic()
        while not node.supervisor.snapshot.view or not node.supervisor.snapshot.view.missing:
            watch.query_if_due()
            node.clock.advance(0.5)
        waited_s = node.clock.monotonic() - began_s
        assert LASTING_S < waited_s < 3 * LASTING_S
        assert node.supervisor.snapshot.view.missing == {5}
        node.daemon.view = ImexDomainStatus(own=2, connected=frozenset({5}))
        node.clock.advance(PEERS_S)
        watch.query_if_due()
        assert node.supervisor.snapshot.view.missing == frozenset()

    def test_absent_peer_is_queried_with_backoff(self, node):
        watch = PeerMonitor(node.daemon, node.clock, node.supervisor)
        node.join("c1")
        node.daemon.view = ImexDomainStatus(own=2, connected=frozenset())
        for _ in range(3600):
            watch.query_if_due()
            node.clock.advance(1.0)
            node.reconcile(1)
        assert node.daemon.queries.count("domain") < 3600 / PEERS_S + 10

    def test_view_triggers_no_pass(self, node):
        node.join("c1")
        node.supervisor._wake.clear()
        node.supervisor.set_view(ImexDomainStatus(own=2, connected=frozenset({5})))
        assert not node.supervisor._wake.is_set()
        assert node.supervisor.snapshot.view.connected == {5}

    def test_query_interval_depends_on_missing_peers(self, node):
        watch = PeerMonitor(node.daemon, node.clock, node.supervisor)
        node.join("c1")
        node.daemon.view = ImexDomainStatus(own=2, connected=frozenset())
        watch.query_if_due()
        node.reconcile()
        assert node.supervisor.snapshot.view == node.daemon.view
        node.daemon.view = ImexDomainStatus(own=2, connected=frozenset({5}))
        node.clock.advance(MISSING_PEERS_S + 0.1)
        watch.query_if_due()
        node.reconcile()
        assert node.supervisor.snapshot.view.connected == {5}
        node.daemon.view = ImexDomainStatus(own=2, connected=frozenset())
        node.clock.advance(MISSING_PEERS_S + 0.1)
        watch.query_if_due()
        node.reconcile()
        assert node.supervisor.snapshot.view.connected == {5}
        node.clock.advance(PEERS_S)
        watch.query_if_due()
        node.reconcile()
        assert node.supervisor.snapshot.view.connected == set()

    def test_stopped_daemon_has_no_view(self, node):
        watch = PeerMonitor(node.daemon, node.clock, node.supervisor)
        node.daemon.view = ImexDomainStatus(own=2, connected=frozenset({5}))
        watch.query_if_due()
        node.reconcile()
        assert node.supervisor.snapshot.view is None
