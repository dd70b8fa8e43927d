"""The process dies, or a step fails, at each step of prepare and unprepare; the node converges all the same."""

from __future__ import annotations

import contextlib

import pytest

from nvdra_core.errors import NvdraError
from tests.beds.memory.channel_node import ChannelNode
from tests.fakes.host.files import Crash
from tests.unit.computedomain.examples import a_claim

CLAIM = a_claim()
LIVES_ON = {
    "restart": lambda node: node.restart(),
    "reboot": lambda node: node.reboot(),
    "power lost, names kept": lambda node: node.reboot(power_loss=True),
    "power lost, names lost": lambda node: node.reboot(power_loss=False),
}


def prepare(node):
    node.prepare(CLAIM)
    node.assert_prepared(CLAIM)


def unprepare(node):
    node.unprepare(CLAIM)
    node.assert_clean()


def prepare_and_unprepare(node):
    prepare(node)
    unprepare(node)


def sweep(node):
    node.claims.delete(CLAIM.ref)
    for _ in range(3):
        node.clock.advance(node.sweep.run_once())
    node.assert_clean()


def a_node(act):
    """A node on which ``act`` can be interrupted."""
    node = ChannelNode()
    if act is unprepare:
        node.prepare(CLAIM)
    node.faults.clear()
    return node


def steps(act):
    node = a_node(act)
    node.prepare(CLAIM) if act is prepare else node.unprepare(CLAIM)
    return range(1, node.faults.steps + 1)


def die(act, step, life):
    node = a_node(act)
    node.faults.die_at = step
    with pytest.raises(Crash):
        act(node)
    LIVES_ON[life](node)
    return node


@pytest.mark.parametrize("life", LIVES_ON)
@pytest.mark.parametrize("step", steps(prepare))
@pytest.mark.parametrize("then", [prepare_and_unprepare, unprepare, sweep])
def test_crash_in_prepare_is_followed_by_any_call(step, life, then):
    then(die(prepare, step, life))


@pytest.mark.parametrize("life", LIVES_ON)
@pytest.mark.parametrize("step", steps(unprepare))
@pytest.mark.parametrize("then", [unprepare, prepare])
def test_crash_in_unprepare_is_followed_by_any_call(step, life, then):
    then(die(unprepare, step, life))


@pytest.mark.parametrize("step", steps(prepare))
def test_failed_prepare_is_completed_by_the_next(step):
    node = a_node(prepare)
    node.faults.fail_at = step
    with contextlib.suppress(NvdraError):
        node.prepare(CLAIM, timeout_s=0.0)
    prepare_and_unprepare(node)


@pytest.mark.parametrize("step", steps(unprepare))
def test_failed_unprepare_is_completed_by_the_next(step):
    """L22. Upstream drops the claim from its checkpoint first, so an unremoved CDI file stays."""
    node = a_node(unprepare)
    node.faults.fail_at = step
    with contextlib.suppress(NvdraError):
        node.unprepare(CLAIM)
    if node.cdi_spec() is not None:
        assert node.deps.records.get("c1") is not None, "or no sweep would try again"
    unprepare(node)
