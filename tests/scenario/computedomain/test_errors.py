"""One step of prepare or unprepare fails (EIO, supervisor unavailable): the next call completes it."""

from __future__ import annotations

import contextlib

import pytest

from nvdra_core.errors import NvdraError
from tests.beds.memory.channel_node import ChannelNode
from tests.unit.computedomain.examples import a_claim

CLAIM = a_claim()


def steps(*, prepared: bool) -> range:
    node = ChannelNode()
    if prepared:
        node.prepare(CLAIM)
    node.faults.clear()
    node.unprepare(CLAIM) if prepared else node.prepare(CLAIM)
    return range(1, node.faults.steps + 1)


def fail_at(node: ChannelNode, step: int) -> None:
    node.faults.clear()
    node.faults.fail_at = step


@pytest.mark.parametrize("step", steps(prepared=False))
def test_failed_prepare_is_completed_by_the_next(step):
    node = ChannelNode()
    fail_at(node, step)
    with contextlib.suppress(NvdraError):
        node.prepare(CLAIM, timeout_s=0.0)
    node.prepare(CLAIM)
    node.assert_prepared(CLAIM)
    node.unprepare(CLAIM)
    node.assert_clean()


@pytest.mark.parametrize("step", steps(prepared=True))
def test_failed_unprepare_is_completed_by_the_next(step):
    """L22. Upstream drops the claim from its checkpoint first, so an unremoved CDI file stays."""
    node = ChannelNode()
    node.prepare(CLAIM)
    fail_at(node, step)
    with contextlib.suppress(NvdraError):
        node.unprepare(CLAIM)
    if node.cdi_spec() is not None:
        assert node.deps.records.get("c1") is not None, "or no sweep would try again"
    node.unprepare(CLAIM)
    node.assert_clean()
