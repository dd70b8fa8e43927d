"""Damaged state files: the supervisor starts, leaves the daemon alone, and recovers from sync and spec."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from nvdra_node.imex.model import Holder
from tests.beds.memory.imex_node import LAYOUT, SPEC_PATH, ImexNode, a_claim, a_domain

GARBAGE = [b"", b"\0" * 200, b"\xff\xfe{", b"{", b"null", b"[]", b'"text"', b"{}"]
HOLDER = {"since_s": 1.0, "domain_uid": "A", "namespace": "ns", "name": "claim-c1", "uid": "c1"}
STRANGE = [
    {"memory": None},
    {"memory": []},
    {"memory": {"started": None, "of": "another release"}},
    {"memory": {"started": None, "restarts": "many"}},
    {"memory": {"started": []}},
    {"memory": {"started": {"run": {"slot": 1}, "invocation_id": "x"}}},
    {"holders": None},
]
"""Valid JSON of another shape."""
LOST_CLAIMS = [
    [7],
    [{"uid": "c1"}],
    [HOLDER | {"since_s": "yesterday"}],
    [HOLDER | {"uid": None}],
    [HOLDER | {"uid": None}, HOLDER | {"is_admitted": "perhaps"}],
]


def prepared(uid: str, domain: str) -> Holder:
    """As the plugin syncs a prepared claim."""
    return replace(a_claim(uid, domain), is_admitted=True)


@pytest.fixture
def node() -> ImexNode:
    found = ImexNode()
    found.serve("A", "B")
    found.reconcile()
    return found


def damage(node: ImexNode, data: bytes) -> None:
    node.files.put(LAYOUT.state, data)
    node.restart()
    node.reconcile()


class TestState:
    @pytest.mark.parametrize("data", GARBAGE)
    def test_unreadable_state_leaves_imex_and_claim_alone(self, node, data):
        """F20. Upstream's plugin does not start until its file is deleted by hand."""
        damage(node, data)
        self.assert_nothing_is_touched(node)

    @pytest.mark.parametrize("change", STRANGE, ids=str)
    def test_state_of_another_shape_leaves_imex_and_claim_alone(self, node, change):
        body = json.loads(node.files.read(LAYOUT.state))
        damage(node, json.dumps(body | change).encode())
        self.assert_nothing_is_touched(node)

    @pytest.mark.parametrize("holders", LOST_CLAIMS, ids=str)
    def test_unreadable_claim_keeps_imex_until_claims_are_reported(self, node, holders):
        body = json.loads(node.files.read(LAYOUT.state))
        damage(node, json.dumps(body | {"holders": holders}).encode())
        node.clock.advance(10 * node.policy.linger_s)
        assert node.join("c2", "B").readiness.reason == "OtherDomainActive"
        assert node.daemon.history == ["start"]
        node.claims.sync([prepared("c1", "A"), a_claim("c2", "B")])
        node.reconcile()
        assert node.ask(a_claim("c1", "A")).readiness.is_ready
        assert node.daemon.history == ["start"]

    def test_truncated_state_leaves_imex_and_claim_alone(self, node):
        whole = node.files.read(LAYOUT.state)
        for length in range(0, len(whole), 7):
            damage(node, whole[:length])
            assert node.daemon.history == ["start"]
        self.assert_nothing_is_touched(node)

    def assert_nothing_is_touched(self, node: ImexNode) -> None:
        """The daemon stays before and after claims are known, as one uses it; the other claim gets the reason."""
        assert not node.join("c2", "B").readiness.is_ready
        node.claims.sync([prepared("c1", "A"), a_claim("c2", "B")])
        node.reconcile()
        reply = node.ask(a_claim("c2", "B")).readiness
        assert (reply.reason, "until ns/claim-c1 is released" in reply.message) == (
            "ImexUnknown",
            True,
        )
        assert node.daemon.history == ["start"]

    def test_waiting_domain_is_served_after_claims_release(self, node):
        damage(node, b"{")
        node.join("c2", "B")
        node.claims.sync([prepared("c1", "A"), a_claim("c2", "B")])
        node.reconcile()
        node.claims.leave("c1")
        assert node.ask(a_claim("c2", "B")).readiness.is_ready
        assert node.daemon.history == ["start", "stop", "start"] and node.serves() == "B"

    def test_state_is_written_again_after_damage(self, node):
        damage(node, b"{")
        node.claims.sync([])
        node.reconcile()
        assert node.join("c3", "A").readiness.is_ready
        node.restart()
        node.reconcile()
        assert node.ask(a_claim("c3", "A")).readiness.is_ready
        assert node.daemon.history == ["start", "stop", "start"]


def changed(value: Any, level: int = 0) -> Any:
    """The same with one more field in every object, as a later release would write it."""
    if isinstance(value, dict):
        return {k: changed(v, level + 1) for k, v in value.items()} | {f"later{level}": {"a": [1]}}
    return [changed(item, level + 1) for item in value] if isinstance(value, list) else value


class TestRollback:
    """The state was written by a later release."""

    def test_state_with_unknown_fields_keeps_the_domain_ready(self, node):
        damage(node, json.dumps(changed(json.loads(node.files.read(LAYOUT.state)))).encode())
        assert node.ask(a_claim("c1", "A")).readiness.is_ready
        assert node.join("c3", "A").readiness.is_ready
        assert node.join("c2", "B").readiness.reason == "OtherDomainActive"
        assert node.daemon.history == ["start"]

    @pytest.mark.parametrize(
        "field", ["restarts", "failures", "last_exit", "is_held", "recovers_domain"]
    )
    def test_unreadable_or_missing_field_costs_that_field_only(self, node, field):
        whole = json.loads(node.files.read(LAYOUT.state))
        for memory in (whole["memory"] | {field: ["later"]}, whole["memory"].copy()):
            if memory.get(field) != ["later"]:
                memory.pop(field, None)
            damage(node, json.dumps(whole | {"memory": memory}).encode())
            assert node.ask(a_claim("c1", "A")).readiness.is_ready
        assert node.daemon.history == ["start"]

    def test_default_fields_are_left_out_for_earlier_releases(self, node):
        """It would refuse unknown fields, and treat the running daemon as a foreign one."""
        memory = json.loads(node.files.read(LAYOUT.state))["memory"]
        known = {"restarts", "failures", "last_exit", "is_held", "recovers_domain"}
        assert memory["started"]["run"]["domain_uid"] == "A"
        assert memory.keys() <= known | {"started"}

    def test_stored_spec_with_unknown_isolation_serves_the_rest(self, node):
        body = changed(json.loads(node.files.read(SPEC_PATH)))
        body["spec"]["domains"][1]["isolation"] = "later"
        node.files.put(SPEC_PATH, json.dumps(body).encode())
        node.restart()
        node.reconcile()
        assert node.ask(a_claim("c1", "A")).readiness.is_ready
        assert node.join("c2", "B").readiness.reason == "WaitingForDomain"


class TestSpec:
    @pytest.mark.parametrize("data", [*GARBAGE, b'{"spec": {"slot": "two"}, "generation": 1}'])
    def test_unreadable_spec_keeps_peers_until_the_next_spec(self, node, data):
        before = node.files.read(LAYOUT.hosts)
        assert b"10.0.0.5" in before
        node.files.put(SPEC_PATH, data)
        node.restart()
        node.reconcile()
        assert node.ask(a_claim("c1")).readiness.reason == "WaitingForController"
        assert node.files.read(LAYOUT.hosts) == before
        node.assign(a_domain("A"), a_domain("B"))
        assert node.ask(a_claim("c1")).readiness.is_ready
        assert node.daemon.history == ["start"]

    def test_deleted_fabric_node_keeps_the_daemons_peers(self, node):
        node.supervisor.set_spec(None, 0)
        node.reconcile()
        assert b"10.0.0.5" in node.files.read(LAYOUT.hosts)
        assert node.daemon.history == ["start"]
