"""Unplanned ends and restarts of nvidia-imex, and the domain's reason after them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from nvdra_core.api.fabric import FabricDomainStatus
from nvdra_node.imex.model import AfterAbruptEnd, Mode, Policy
from nvdra_node.imex.report import status as report
from tests.beds.memory.imex_node import FABRIC, ImexNode, a_claim, a_domain


def domain_of(node: ImexNode) -> FabricDomainStatus:
    node.reconcile()
    return node.domain_status()


def restart(node: ImexNode) -> None:
    """``systemctl restart``, as needrestart does after an upgrade of a library."""
    node.daemon.restart_by_hand()


def stop(node: ImexNode) -> None:
    """``systemctl stop``; the supervisor starts it again."""
    node.daemon.die("success", 0)


def kill(node: ImexNode) -> None:
    node.daemon.die("signal", 9)


def stop_and_start(node: ImexNode) -> None:
    """The end is observed before the external start."""
    node.daemon.die("success", 0)
    node.reconcile()
    node.daemon.restart_by_hand()


def kill_and_start(node: ImexNode) -> None:
    node.daemon.die("signal", 9)
    node.reconcile()
    node.daemon.restart_by_hand()


ENDS = pytest.mark.parametrize("end", [restart, stop, kill, stop_and_start, kill_and_start])


@pytest.fixture
def node() -> ImexNode:
    made = ImexNode()
    made.serve()
    return made


def after(node: ImexNode, end: Callable[[ImexNode], None]) -> FabricDomainStatus:
    end(node)
    node.reconcile()
    node.clock.advance(2.0)
    return domain_of(node)


@ENDS
def test_unplanned_end_is_the_domains_reason(node, end):
    before = node.status()
    domain = after(node, end)
    assert (domain.ready, domain.reason) == (True, "ImexRestarted")
    assert "ns/claim-c1" in domain.message and "nvidia-imex" in domain.message
    now = node.status()
    assert now.imex.restarts == 1 and now.imex.message
    assert report.is_urgent(before, now)


@ENDS
def test_reason_stays_until_interrupted_claims_are_released(node, end):
    after(node, end)
    node.clock.advance(3600)
    assert node.join("c2").readiness.is_ready
    domain = domain_of(node)
    assert domain.reason == "ImexRestarted" and "claim-c2" not in domain.message
    node.claims.leave("c1")
    assert (domain_of(node).ready, domain_of(node).reason) == (True, "")


@ENDS
def test_reason_survives_a_restart_of_the_supervisor(node, end):
    after(node, end)
    node.restart()
    assert domain_of(node).reason == "ImexRestarted"


@ENDS
def test_end_while_the_supervisor_was_down_is_reported(node, end):
    """needrestart restarts both units at once."""
    node.reconcile()
    end(node)
    node.restart()
    node.reconcile()
    node.clock.advance(2.0)
    assert domain_of(node).reason == "ImexRestarted"


def test_own_starts_and_stops_are_not_reported(node):
    assert domain_of(node).reason == ""
    node.claims.leave("c1")
    node.reconcile()
    node.clock.advance(node.policy.linger_s + 1)
    node.reconcile()
    assert node.daemon.history == ["start", "stop"]
    assert node.join("c2").readiness.is_ready
    assert domain_of(node).reason == "" and node.status().imex.restarts == 0


def test_end_before_admission_interrupts_no_claim():
    node = ImexNode()
    node.assign(a_domain())
    node.daemon.fails_to_start = True
    node.join("c1")
    node.daemon.fails_to_start = False
    node.clock.advance(60)
    assert node.ask(a_claim("c1")).readiness.is_ready
    assert domain_of(node).reason == ""


def test_gpu_recovery_is_added_to_the_message(node):
    node.supervisor.set_fabric(replace(FABRIC, recovery="GPU-3: reset it"))
    domain = after(node, kill)
    assert domain.reason == "ImexRestarted" and "GPU-3: reset it" in domain.message


def test_held_domain_keeps_its_own_reason():
    node = ImexNode(Policy(after_abrupt_end=AfterAbruptEnd.HOLD))
    node.serve()
    kill(node)
    assert domain_of(node).reason == "ImexHeld"


class TestHostManaged:
    @pytest.fixture
    def node(self) -> ImexNode:
        made = ImexNode(Policy(mode=Mode.HOST_MANAGED))
        made.assign(a_domain(), slot=None)
        made.daemon.restart_by_hand()
        assert made.join("c1").readiness.is_ready
        return made

    def test_restart_of_hosts_daemon_under_claims_is_reported(self, node):
        assert domain_of(node).reason == ""
        restart(node)
        domain = domain_of(node)
        assert (domain.ready, domain.reason) == (True, "ImexRestarted")
        assert "ns/claim-c1" in domain.message and node.status().imex.restarts == 1
        assert node.daemon.history == []
        node.claims.leave("c1")
        assert node.join("c2").readiness.is_ready
        assert domain_of(node).reason == ""

    def test_restart_while_the_supervisor_was_down_is_reported(self, node):
        node.reconcile()
        restart(node)
        node.restart()
        assert domain_of(node).reason == "ImexRestarted"

    def test_claims_do_not_wait_for_a_silent_systemd(self, node):
        node.daemon.refuses_to.add("show")
        assert node.join("c2").readiness.is_ready
