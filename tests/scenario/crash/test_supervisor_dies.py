"""The supervisor dies before each step that it does on the disk, and the next one goes on: no daemon is lost or ended."""

from __future__ import annotations

import pytest

from nvdra_core.api.fabric import FabricSlot
from nvdra_node.imex.daemon.render import hosts
from tests.beds.memory.imex_node import FABRIC, LAYOUT, ImexNode, a_claim, a_domain, a_spec
from tests.fakes.host.files import Crash

STEPS = range(1, 18)


def die_at(node: ImexNode, step: int, history: list[object]) -> bool:
    """Do these things with a process that dies before a step; whether it did. Another one takes over."""
    node.files.faults.clear()
    node.files.faults.die_at = step
    died = False
    try:
        for each in history:
            each()  # type: ignore[operator]
    except Crash:
        died = True
    node.files.faults.clear()
    node.restart()
    node.supervisor.set_fabric(FABRIC)
    return died


@pytest.mark.parametrize("step", STEPS)
def test_crash_during_first_claim_keeps_daemon(step: int) -> None:
    node = ImexNode()
    die_at(node, step, [lambda: node.assign(a_domain()), lambda: node.join("c1")])
    node.serve()
    node.clock.advance(2)
    node.reconcile()
    assert node.ask(a_claim("c1")).readiness.is_ready
    assert set(node.daemon.history) == {"start"}
    assert node.daemon.starts == 1, "the daemon of the one that died is taken over"
    run = node.supervisor.snapshot.run
    assert run is not None and node.files.read(LAYOUT.hosts) == hosts(run, a_spec(a_domain()))


@pytest.mark.parametrize("step", STEPS)
def test_crash_during_domain_switch_converges(step: int) -> None:
    node = ImexNode()
    node.assign(a_domain("A"), a_domain("B"))
    node.join("a", "A")
    died = die_at(node, step, [lambda: node.claims.leave("a"), lambda: node.join("b", "B")])
    for _ in range(2):  # the plugin tells its claims
        node.claims.sync([a_claim("b", "B")])
    node.clock.advance(2)
    node.reconcile()
    assert node.ask(a_claim("b", "B")).readiness.is_ready, died
    assert node.serves() == "B"
    assert node.daemon.history.count("stop") == 1


@pytest.mark.parametrize("step", range(1, 8))
def test_crash_during_peer_changes_converges(step: int) -> None:
    node = ImexNode()
    node.serve()
    slots = tuple(FabricSlot(index=i, node_name=f"n{i}", address=f"10.0.0.{i}") for i in (2, 5, 7))
    die_at(node, step, [lambda: node.assign(a_domain(), slots=slots), node.reconcile])
    node.assign(a_domain(), slots=slots)
    node.reconcile()
    node.clock.advance(10)
    node.reconcile()
    assert node.daemon.starts == 1 and node.daemon.unit.is_running
    assert "reload" in node.daemon.history
    assert b"10.0.0.7" in (node.files.read(LAYOUT.hosts) or b"")
    assert node.ask(a_claim("c1")).readiness.is_ready
