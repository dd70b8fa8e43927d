"""FabricNode: what one side writes the other side reads, and reports of another run count for nothing."""

from typing import Any

import msgspec
import pytest

from nvdra_core import api
from nvdra_core.api import fabric
from nvdra_core.errors import InvalidConfigError

CLIQUE = "7b968a6d-c8aa-45e1-9e07-e1e51be99c31.32766"

SPEC: dict[str, Any] = {
    "cliqueID": CLIQUE,
    "slot": 0,
    "slotCount": 18,
    "slots": [
        {"index": 0, "nodeName": "tray-a", "address": "10.0.0.1"},
        {"index": 5, "nodeName": "tray-b", "address": ""},
    ],
    "formerSlots": [{"cliqueID": "other.1", "index": 3}],
    "domains": [
        {
            "uid": "u1",
            "namespace": "team",
            "name": "train",
            "isolation": "domain",
            "port": 24000,
            "channel": 0,
            "deleting": False,
            "members": [0, 5],
            "slotCount": 18,
        }
    ],
    "sharedPort": 24000,
    "heartbeatSeconds": 30,
    "certificate": {"certificate": "c", "authorities": "a", "notAfter": "2027-01-01T00:00:00Z"},
    "lostHeartbeat": "2026-11-21T16:00:00.000000Z",
}

STATUS: dict[str, Any] = {
    "bootID": "boot-1",
    "clusterUUID": "7b968a6d-c8aa-45e1-9e07-e1e51be99c31",
    "cliqueID": CLIQUE,
    "addresses": ["10.0.0.1"],
    "addressMessage": "no address",
    "driverVersion": "580.65.06",
    "imexVersion": "580.65.06",
    "channelCount": 2048,
    "fabricState": "Completed",
    "fabricMessage": "all 4 GPUs",
    "imex": {
        "state": "READY",
        "incarnation": {
            "bootID": "boot-1",
            "invocationID": "i1",
            "configHash": "h",
            "slot": 0,
            "domainUID": "u1",
            "slotCount": 18,
            "version": "580.65.06",
        },
        "restarts": 1,
        "message": "exit 1",
        "certificateRequest": "csr",
    },
    "domains": [
        {
            "uid": "u1",
            "ready": True,
            "reason": "PeersMissing",
            "message": "1 of 2",
            "claims": [{"namespace": "team", "name": "c", "uid": "cu"}],
            "peersConnected": 0,
            "peersKnown": 1,
            "peers": [{"slot": 5, "problem": "VersionMismatch", "version": "570.1"}],
        }
    ],
    "heartbeatTime": "2026-11-21T16:00:00.000000Z",
    "observedGeneration": 4,
}


def a_spec(**changes: Any) -> api.FabricNodeSpec:
    return api.decode_part(SPEC | changes, api.FabricNodeSpec, where="FabricNode a", strict=True)


def a_status(**changes: Any) -> api.FabricNodeStatus:
    return api.decode_part(
        STATUS | changes, api.FabricNodeStatus, where="FabricNode a", strict=True
    )


@pytest.mark.parametrize(("value", "cls"), [(SPEC, api.FabricNodeSpec), (STATUS, api.FabricNodeStatus)])  # fmt: skip
def test_every_field_survives_a_round_trip(value, cls):
    decoded = api.decode_part(value, cls, where="w", strict=True)
    assert msgspec.json.decode(msgspec.json.encode(decoded)) == value


@pytest.mark.parametrize("cls", [api.FabricNodeSpec, api.FabricNodeStatus])
def test_missing_spec_or_status_reads_as_defaults(cls):
    assert api.decode_part({}, cls, where="w", strict=True) == cls()
    assert msgspec.to_builtins(cls()) == {}


def test_unknown_fields_are_dropped_on_read():
    later = {**SPEC, "later": 1, "domains": [{**SPEC["domains"][0], "later": 1}]}
    read = api.decode_part(later, api.FabricNodeSpec, where="w", strict=False)
    assert read == a_spec()


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"slot": "0"}, "$.slot"),
        ({"slots": [{"index": 0}]}, "$.slots[0].nodeName"),
        ({"domains": [{**SPEC["domains"][0], "isolation": "Domain"}]}, "$.domains[0].isolation"),
    ],
)
def test_invalid_value_is_refused_with_its_path(changes, path):
    with pytest.raises(InvalidConfigError) as caught:
        a_spec(**changes)
    assert str(caught.value).startswith(f"FabricNode a: {path}: ")


class TestSlotNames:
    def test_peer_name_is_a_dns_label(self):
        assert fabric.slot_name(CLIQUE, 7) == "imex-" + fabric.slot_name(CLIQUE, 7)[5:15] + "-0007"
        assert len(fabric.slot_name(CLIQUE, 2047)) < 64

    def test_peer_names_differ_between_cliques(self):
        assert fabric.slot_name("a.1", 0) != fabric.slot_name("b.1", 0)


class TestIncarnation:
    def test_run_of_this_boot_in_its_slot_is_current(self):
        assert fabric.is_incarnation_current(a_spec(), a_status())

    @pytest.mark.parametrize(
        ("spec", "status"),
        [
            ({}, {"bootID": "boot-2"}),
            ({"slot": 1}, {}),
            ({"slot": None}, {}),
            ({"cliqueID": "other.1"}, {}),
            ({}, {"imex": {"state": "STOPPED"}}),
        ],
        ids=["other boot", "other slot", "no slot", "other clique", "no run"],
    )
    def test_report_of_another_run_is_ignored(self, spec, status):
        assert not fabric.is_incarnation_current(a_spec(**spec), a_status(**status))

    def test_node_without_fabric_needs_no_run(self):
        spec, status = api.FabricNodeSpec(), api.FabricNodeStatus(boot_id="b")
        assert fabric.is_incarnation_current(spec, status)


def test_domain_is_found_by_uid():
    found = fabric.domain_named(a_spec(), "u1")
    assert found is not None
    assert (found.namespace, found.isolation) == ("team", api.Isolation.DOMAIN)
    assert fabric.domain_named(a_spec(), "u2") is None
