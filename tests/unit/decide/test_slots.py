"""Slots: sticky, never renumbered, never given on while their holder may live, restored from any copy."""

from __future__ import annotations

from typing import Any

import pytest

from nvdra_cluster.decide.model import FabricView
from nvdra_cluster.decide.node import slots
from nvdra_cluster.decide.node.slots import CliqueDecision, CliqueSnapshot
from nvdra_core.api import FabricSlot, FormerSlot
from tests.unit.decide.views import CLIQUE, OTHER_CLIQUE, a_fabric_node, a_run


def decide(*nodes: FabricView, **fields: Any) -> CliqueDecision:
    known: dict[str, Any] = {
        "clique_id": CLIQUE,
        "nodes": nodes,
        "existing": frozenset(view.name for view in nodes),
        "slot_count": 18,
    }
    return slots.decide(CliqueSnapshot(**{**known, **fields}))


def listed(*entries: tuple[int, str]) -> dict[str, Any]:
    return {"slots": tuple(FabricSlot(index=index, node_name=name) for index, name in entries)}


class TestNewNodes:
    def test_get_lowest_free_slots_oldest_first(self):
        b = a_fabric_node("b", created="2026-01-01T00:00:00Z")
        a = a_fabric_node("a", created="2026-01-02T00:00:00Z")
        assert decide(a, b).slots == {"b": 0, "a": 1}

    def test_gaps_are_filled_and_slots_kept(self):
        found = decide(a_fabric_node("a", slot=0), a_fabric_node("c", slot=2), a_fabric_node("n"))
        assert found.slots == {"a": 0, "n": 1, "c": 2}

    def test_wait_when_clique_is_full(self):
        found = decide(a_fabric_node("a", slot=0), a_fabric_node("n"), slot_count=1)
        assert (found.slots, found.full) == ({"a": 0}, ("n",))

    def test_without_node_object_get_nothing(self):
        assert decide(a_fabric_node("a"), existing=frozenset()).slots == {}


class TestKeeping:
    def test_node_that_reports_nothing_now_keeps_its_slot(self):
        silent = a_fabric_node("a", slot=4, status={"clique_id": ""})
        assert decide(silent, a_fabric_node("n")).slots == {"a": 4, "n": 0}

    def test_deleted_node_keeps_others_off_its_slot_for_while(self):
        new = a_fabric_node("n")
        assert decide(new, reserved={"deleted": 0}).slots == {"n": 1}
        assert decide(new, reserved={"deleted": 0}, slot_count=1).full == ("n",)
        assert decide(new).slots == {"n": 0}

    def test_reserved_slots_are_listed_to_peers(self):
        """No leader's memory outlives it; the lists of those that stay do."""
        deleted = a_fabric_node("late", slot=1)
        found = decide(
            a_fabric_node("a", slot=2), deleted, existing=frozenset("a"), reserved={"g": 0}
        )
        assert (found.slots, found.reserved) == ({"a": 2}, {"g": 0, "late": 1})

    def test_node_that_comes_back_in_that_time_gets_its_own_slot(self):
        assert decide(a_fabric_node("deleted"), reserved={"deleted": 3}).slots == {"deleted": 3}

    def test_fabric_node_of_deleted_node_is_not_listed(self):
        deleted = a_fabric_node("deleted", slot=0)
        found = decide(deleted, a_fabric_node("n"), existing=frozenset({"n"}))
        assert found.slots == {"n": 1}

    def test_slot_beyond_setting_is_kept(self):
        found = decide(a_fabric_node("a", slot=30), a_fabric_node("n"))
        assert (found.slots, found.slot_count) == ({"a": 30, "n": 0}, 31)


class TestLostRecords:
    def test_running_imex_keeps_slot_it_runs_on(self):
        running = a_fabric_node("a", status={"imex": a_run(5)})
        assert decide(running, a_fabric_node("b")).slots == {"a": 5, "b": 0}

    def test_run_of_earlier_boot_is_no_record(self):
        running = a_fabric_node("a", status={"imex": a_run(5, boot="boot-0")})
        assert decide(running).slots == {"a": 0}

    def test_peers_remember_node_whose_fabric_node_was_deleted(self):
        peer = a_fabric_node("p", slot=0, spec=listed((0, "p"), (1, "a")))
        found = decide(peer, a_fabric_node("n"), existing=frozenset({"p", "a", "n"}))
        assert found.slots == {"p": 0, "a": 1, "n": 2}

    def test_peers_drop_slot_of_deleted_node(self):
        peer = a_fabric_node("p", slot=0, spec=listed((0, "p"), (1, "deleted")))
        assert decide(peer, a_fabric_node("n")).slots == {"p": 0, "n": 1}

    def test_own_record_beats_what_peers_remember(self):
        peer = a_fabric_node("p", slot=0, spec=listed((0, "p"), (1, "a")))
        assert decide(peer, a_fabric_node("a", slot=2)).slots == {"p": 0, "a": 2}

    @pytest.mark.parametrize("slot", [18, 4095, 10**9])
    def test_slot_that_clique_does_not_have_is_not_believed(self, slot: int):
        """One compromised node could make its peers prepare for 10^9 others."""
        odd = a_fabric_node("odd", status={"imex": a_run(slot)})
        decision = decide(a_fabric_node("a", slot=0), odd)
        assert (decision.slots, decision.slot_count) == ({"a": 0, "odd": 1}, 18)


class TestTwoWithOneSlot:
    def test_one_whose_imex_runs_there_stays(self):
        idle = a_fabric_node("a", slot=0, created="2026-01-01T00:00:00Z")
        running = a_fabric_node("b", slot=0, status={"imex": a_run(0)})
        assert decide(idle, running).slots == {"b": 0, "a": 1}

    def test_else_older_one_stays(self):
        young = a_fabric_node("a", slot=0, created="2026-01-02T00:00:00Z")
        old = a_fabric_node("b", slot=0, created="2026-01-01T00:00:00Z")
        assert decide(young, old).slots == {"b": 0, "a": 1}


class TestLeaving:
    def moved(self, slot: int = 0) -> FabricView:
        return a_fabric_node("m", clique=CLIQUE, slot=slot, status={"clique_id": OTHER_CLIQUE})

    def test_node_in_another_clique_is_not_listed(self):
        assert decide(self.moved(), a_fabric_node("n")).slots == {"n": 1}

    def test_its_slot_is_given_on_when_there_is_no_other(self):
        assert decide(self.moved(), a_fabric_node("n"), slot_count=1).slots == {"n": 0}

    def test_it_has_its_slot_back_when_it_returns(self):
        former = (FormerSlot(clique_id=CLIQUE, index=7),)
        back = a_fabric_node("m", spec={"former_slots": former})
        assert decide(back, a_fabric_node("n")).slots == {"m": 7, "n": 0}

    def test_node_out_of_service_gives_its_slot_up_but_last(self):
        off = a_fabric_node("off", slot=0)
        new = a_fabric_node("n")
        out = {"out_of_service": frozenset({"off"})}
        assert decide(off, new, **out).slots == {"n": 1}
        assert decide(off, new, slot_count=1, **out).slots == {"n": 0}


class TestSlotCount:
    def test_raised_one_is_for_next_imex(self):
        running = a_fabric_node("a", slot=0, status={"imex": a_run(0, slot_count=18)})
        assert decide(running, slot_count=36).slot_count == 36

    def test_of_imex_for_all_domains_stays_while_one_runs(self):
        running = a_fabric_node("a", slot=0, status={"imex": a_run(0, slot_count=18)})
        idle = a_fabric_node("b", slot=1)
        assert decide(running, idle, slot_count=36, has_shared_imex=True).slot_count == 18
        assert decide(idle, slot_count=36, has_shared_imex=True).slot_count == 36

    def test_slot_count_stays_under_older_supervisor(self):
        running = a_fabric_node("a", slot=0, status={"imex": a_run(0, slot_count=0)})
        assert decide(running, slot_count=36).slot_count == 18

    def test_follows_setting_when_none_runs(self):
        assert decide(a_fabric_node("a", slot=0), slot_count=36).slot_count == 36


class TestOutsiders:
    """Nodes that report a clique of another rack than theirs."""

    def test_new_one_gets_no_slot(self):
        found = decide(a_fabric_node("a"), a_fabric_node("x"), outsiders=frozenset({"x"}))
        assert (found.slots, found.full) == ({"a": 0}, ())

    def test_one_that_had_slot_loses_it(self):
        had = a_fabric_node("x", slot=0)
        found = decide(had, a_fabric_node("a"), outsiders=frozenset({"x"}), slot_count=1)
        assert found.slots == {"a": 0}

    def test_slot_in_peers_lists_is_not_given_away(self):
        peer = a_fabric_node("a", slot=0, spec=listed((0, "a"), (1, "x")))
        found = decide(peer, a_fabric_node("x"), outsiders=frozenset({"x"}))
        assert found.slots == {"a": 0}
