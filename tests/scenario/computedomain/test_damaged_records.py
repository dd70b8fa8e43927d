"""Damaged records: the plugin starts, other claims go on, and the claim can be prepared again and released."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from nvdra_node.computedomain.connection import held_claims
from tests.beds.memory.channel_node import STATE, ChannelNode
from tests.unit.computedomain.examples import a_claim, joined, parameters

RECORD = STATE / "claims" / "c1.json"


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(data: bytes) -> bytes:
    return b""


def zeros(data: bytes) -> bytes:
    return b"\0" * len(data)


def one_bit(data: bytes) -> bytes:
    place = data.index(b'"domain"') + 3
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def of_another_claim(data: bytes) -> bytes:
    return data.replace(b"c1", b"c7")


def no_object(data: bytes) -> bytes:
    return b"[]"


DAMAGES = [cut, empty, zeros, one_bit, of_another_claim, no_object]


@pytest.fixture
def node() -> ChannelNode:
    """Two claims of one domain, as with ``sharedChannels``."""
    found = ChannelNode()
    found.supervisor.ready["A"] = joined()
    for uid, share in (("c1", "s1"), ("c2", "s2")):
        found.prepare(a_claim(uid, parameters(), shares=(share,)))
    return found


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_record_is_quarantined(node, damage):
    """F20. Upstream's plugin does not start until the file of all claims is deleted by hand."""
    node.files.put(RECORD, damage(node.files.read(RECORD)))
    node.restart()
    [aside] = node.deps.records.quarantined
    assert aside.path == STATE / "quarantine" / "c1.json" and aside.reason
    assert node.deps.records.get("c2") is not None
    node.prepare(a_claim("c2", parameters(), shares=("s2",)))
    node.unprepare(a_claim("c2"))
    assert node.deps.records.all() == ()


@pytest.mark.parametrize("damage", DAMAGES)
def test_claim_of_damaged_record_is_prepared_again(node, damage):
    before = node.cdi_spec("c1")
    node.files.put(RECORD, damage(node.files.read(RECORD)))
    node.restart()
    [device] = node.prepare(a_claim("c1", parameters(), shares=("s1",)))
    assert device.details["domain"] == "A"
    assert node.cdi_spec("c1") == before
    assert node.supervisor.held == {"c1": "A", "c2": "A"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_pod_of_damaged_record_leaves_nothing(node, damage):
    node.files.put(RECORD, damage(node.files.read(RECORD)))
    node.restart()
    node.unprepare(a_claim("c1"))
    node.unprepare(a_claim("c2"))
    assert node.cdi_spec("c1") is None
    left = {path.name for path in node.files.paths()}
    assert left <= {"c1.json", "c1.json.reason"}, "only the quarantined record"


@pytest.mark.parametrize(
    "effect",
    [
        {"kind": "joinDomain"},
        {"kind": "joinDomain", "domain": "A", "claim": None},
        {"kind": "joinDomain", "domain": "A", "claim": {"uid": "c1"}},
    ],
    ids=str,
)
def test_unreadable_effect_is_synced_without_domain(node, effect):
    """IMEX stays for a claim of an unknown domain."""
    records = sorted(node.deps.records.all(), key=lambda record: record.uid)
    strange = [replace(records[0], effects=(effect,)), records[1]]
    synced = [(each.effect.uid, each.effect.domain_uid) for each in held_claims(strange, "boot-1")]
    assert synced == [("c1", ""), ("c2", "A")]
