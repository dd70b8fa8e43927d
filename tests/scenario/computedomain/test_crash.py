"""The process dies before each step of prepare and unprepare; the node converges all the same."""

from __future__ import annotations

import pytest

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


def steps(act, *, prepared):
    node = ChannelNode()
    if prepared:
        node.prepare(CLAIM)
    node.faults.clear()
    act(node)
    return range(1, node.faults.steps + 1)


def prepare(node):
    node.prepare(CLAIM)


def unprepare(node):
    node.unprepare(CLAIM)


def die(node, act, step):
    node.faults.clear()
    node.faults.die_at = step
    with pytest.raises(Crash):
        act(node)


@pytest.mark.parametrize("life", LIVES_ON)
@pytest.mark.parametrize("step", steps(prepare, prepared=False))
class TestDyingInPrepare:
    def test_retry_prepares(self, step, life):
        node = ChannelNode()
        die(node, prepare, step)
        LIVES_ON[life](node)
        node.prepare(CLAIM)
        node.assert_prepared(CLAIM)
        node.unprepare(CLAIM)
        node.assert_clean()

    def test_unprepare_leaves_nothing(self, step, life):
        node = ChannelNode()
        die(node, prepare, step)
        LIVES_ON[life](node)
        node.unprepare(CLAIM)
        node.assert_clean()

    def test_sweep_leaves_nothing_of_a_deleted_claim(self, step, life):
        node = ChannelNode()
        die(node, prepare, step)
        LIVES_ON[life](node)
        node.claims.delete(CLAIM.ref)
        for _ in range(3):
            node.clock.advance(node.sweep.run_once())
        node.assert_clean()


@pytest.mark.parametrize("life", LIVES_ON)
@pytest.mark.parametrize("step", steps(unprepare, prepared=True))
class TestDyingInUnprepare:
    def test_retry_leaves_nothing(self, step, life):
        node = ChannelNode()
        node.prepare(CLAIM)
        die(node, unprepare, step)
        LIVES_ON[life](node)
        node.unprepare(CLAIM)
        node.assert_clean()

    def test_prepare_prepares_again(self, step, life):
        node = ChannelNode()
        node.prepare(CLAIM)
        die(node, unprepare, step)
        LIVES_ON[life](node)
        node.prepare(CLAIM)
        node.assert_prepared(CLAIM)
