"""Claims on a node whose supervisor replies ready, refused, not yet, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from nvdra_core.errors import ClaimError, DeviceConflictError, NotReadyError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.computedomain.connection import (
    RECONNECT_S,
    SYNC_S,
    SupervisorConnection,
    held_claims,
)
from nvdra_node.computedomain.model import DomainState, NodeView
from nvdra_node.computedomain.supervisor_client import HeldClaim
from tests.beds.memory.channel_node import ChannelNode
from tests.fakes.clock import FakeClock
from tests.fakes.host.files import Faults
from tests.fakes.supervisor import FakeSupervisor
from tests.unit.computedomain.examples import VIEW, a_claim, joined, parameters


@pytest.fixture
def node() -> ChannelNode:
    return ChannelNode()


def test_repeated_prepare_verifies_with_the_supervisor(node):
    first = node.prepare(a_claim())
    node.clock.advance(10)
    assert node.prepare(a_claim()) == first
    assert node.supervisor.joins == 2


def test_fresh_reply_is_reused(node):
    node.prepare(a_claim())
    assert node.supervisor.joins == 1


def test_record_of_a_domain_not_ready_is_not_answered(node):
    node.prepare(a_claim())
    del node.supervisor.ready["A"]
    node.clock.advance(10)
    with pytest.raises(NotReadyError, match="not ready"):
        node.prepare(a_claim(), timeout_s=5)
    node.supervisor.ready["A"] = joined()
    node.prepare(a_claim())
    node.assert_prepared(a_claim())


def test_deadline_returns_the_last_cause(node):
    node.supervisor.ready.clear()
    with pytest.raises(NotReadyError, match="ComputeDomain A is not ready"):
        node.prepare(a_claim(), timeout_s=10)


def test_refused_claim_leaves_nothing_after_unprepare(node):
    node.supervisor.namespaces["A"] = "other"
    with pytest.raises(ClaimError, match="another namespace"):
        node.prepare(a_claim())
    node.unprepare(a_claim())
    node.assert_clean()


def test_prepare_updates_a_changed_major(node):
    node.prepare(a_claim())
    node.machine.char_majors["nvidia-caps-imex-channels"] = 240
    node.prepare(a_claim())
    [device] = node.cdi_spec()["devices"]
    assert device["containerEdits"]["deviceNodes"][0]["major"] == 240


def test_renewal_writes_the_current_major(node):
    """After a reload of the driver the old major may be any other device."""
    node.prepare(a_claim())
    node.machine.char_majors["nvidia-caps-imex-channels"] = 240
    (record,) = node.deps.records.all()
    assert node.transaction.renew_file(record, Deadline(5, node.clock))
    [device] = node.cdi_spec()["devices"]
    assert device["containerEdits"]["deviceNodes"][0]["major"] == 240


def test_second_claim_of_the_channel_names_the_first(node):
    node.prepare(a_claim("c1"))
    with pytest.raises(DeviceConflictError, match="claim-c1"):
        node.prepare(a_claim("c2"))


def test_shares_of_another_domain_wait(node):
    node.supervisor.ready["B"] = joined("B")
    node.prepare(a_claim("c1", shares=("s1",)))
    node.prepare(a_claim("c2", shares=("s2",)))
    with pytest.raises(NotReadyError, match="until the claims of A are released"):
        node.prepare(a_claim("c3", parameters("B"), shares=("s3",)), timeout_s=5)
    node.unprepare(a_claim("c1"))
    node.unprepare(a_claim("c2"))
    node.prepare(a_claim("c3", parameters("B"), shares=("s3",)))


def test_channel_isolation_prepares_two_domains(node):
    shared = {uid: DomainState(isolation="channel") for uid in ("A", "B")}
    node.connection._take(
        NodeView(fabric_state="Completed", clique_id=VIEW.clique_id, domains=shared)
    )
    node.supervisor.ready = {
        "A": joined("A", channel=4, isolation="channel"),
        "B": joined("B", channel=5, isolation="channel"),
    }
    node.prepare(a_claim("c1", shares=("s1",)))
    node.prepare(a_claim("c2", parameters("B"), shares=("s2",)))
    minors = [
        node.cdi_spec(uid)["devices"][0]["containerEdits"]["deviceNodes"][0]["minor"]
        for uid in ("c1", "c2")
    ]
    assert minors == [4, 5]


class TestWithoutSupervisor:
    def test_claim_without_supervisor_gets_a_remedy(self, node):
        node.supervisor.is_down = True
        with pytest.raises(NotReadyError, match="does not answer"):
            node.prepare(a_claim(), timeout_s=5)

    def test_unprepare_without_supervisor_is_synced_later(self, node):
        node.prepare(a_claim())
        node.supervisor.is_down = True
        node.unprepare(a_claim())
        assert node.files.paths() == ()
        node.supervisor.is_down = False
        node.sync()
        assert node.supervisor.held == {}

    def test_last_view_stands_without_supervisor(self, node):
        node.supervisor.is_down = True
        assert node.driver.pool().devices


class RecordingSupervisor(FakeSupervisor):
    """Records the times of syncs. Unavailable for three calls; stops with the fourth that arrives."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(Faults())
        self.clock = clock
        self.failures_left = 3
        self.synced_at_s: list[float] = []
        self.stopping = threading.Event()

    def sync(self, held: Sequence[HeldClaim]) -> None:
        if self.failures_left:
            self.failures_left -= 1
            raise NotReadyError("the supervisor does not answer", retry_after_s=1.0)
        self.synced_at_s.append(self.clock.monotonic())
        if len(self.synced_at_s) == 4:
            self.stopping.set()


def test_reconnect_syncs_claims_twice_within_seconds():
    """A claim that two syncs lack is removed: a missed release must not hold the node for 30 s."""
    clock = FakeClock()
    supervisor = RecordingSupervisor(clock)
    SupervisorConnection(supervisor, clock).sync(list, supervisor.stopping)
    first = supervisor.synced_at_s[0]
    assert [at_s - first for at_s in supervisor.synced_at_s] == [0, RECONNECT_S, RECONNECT_S + SYNC_S,
                                                          RECONNECT_S + 2 * SYNC_S]  # fmt: skip


def test_only_claims_of_this_boot_are_synced(node):
    node.prepare(a_claim())
    records = node.deps.records.all()
    assert [each.effect.uid for each in held_claims(records, "boot-1")] == ["c1"]
    assert held_claims(records, "boot-2") == []
    assert SYNC_S > 0


def test_claim_without_usable_record_is_synced_without_domain(node):
    """Otherwise the supervisor would stop IMEX under its pod."""
    node.prepare(a_claim())
    [record] = node.deps.records.all()
    strange = replace(record, effects=({"kind": "of another release"},))
    for found in (held_claims([strange], "boot-1"), held_claims([], "boot-1", damaged=["c1"])):
        [(effect, is_prepared)] = [(each.effect, each.is_prepared) for each in found]
        assert (effect.uid, effect.domain_uid, is_prepared) == ("c1", "", True)


def test_channel_adds_no_edits_for_nvidias_hook(node):
    """The container's GPUs may come from another driver or the device plugin."""
    from nvdra_node.app.computedomain import NoEdits
    from nvdra_node.cdi import spec
    from nvdra_node.cdi.edits import ClaimSpec

    common = NoEdits().current(Deadline(1.0, FakeClock()))
    assert common.edits == b"{}"
    assert b"VISIBLE" not in spec.render("v/c", ClaimSpec(devices=()), common)
