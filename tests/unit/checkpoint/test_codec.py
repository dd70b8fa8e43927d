"""Records as bytes: read as written, also by other releases, and refused when damaged."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra_core.errors import RecordError
from nvdra_node.cdi.edits import CdiDevice, ClaimSpec, ContainerEdits, DeviceNode
from nvdra_node.checkpoint import codec
from nvdra_node.checkpoint.claim import Allocation, AllocationResult, ConfigSource, OpaqueConfig
from nvdra_node.checkpoint.model import PreparedDevice, Record, RecordState
from tests.lib.records import record_file

GOLDEN = Path(__file__).parent / "golden"
"""Files written by release 0.1.0."""
FULL = Record(
    uid="uid-1",
    namespace="ns",
    name="claim",
    state=RecordState.COMPLETED,
    boot_id="boot",
    effects=({"kind": "set", "n": 1},),
    devices=(
        PreparedDevice(
            request="r",
            pool="node",
            device="gpu-0",
            cdi_ids=("k=v",),
            share_id="s",
            admin_access=True,
            kind="gpu",
            details={"uuid": "GPU-1"},
            unknown={"later": [1]},
        ),
    ),
    holds=("gpu:1",),
    config_key="{}",
    claim=Allocation(
        results=(AllocationResult(request="r", pool="node", device="gpu-0", share_id="s"),),
        configs=(
            OpaqueConfig(source=ConfigSource.CLAIM, requests=(), parameters={"a": 1}, index=0),
        ),
        annotations={"resource.kubernetes.io/pod-claim-name": "gpus"},
    ),
    cdi=ClaimSpec(
        devices=(
            CdiDevice(
                name="uid-1-gpu-0",
                edits=ContainerEdits(device_nodes=(DeviceNode(path="/dev/a", minor=0),)),
            ),
        ),
        with_driver_files=False,
    ),
    unknown={"newField": {"a": 1}},
)
EMPTY = Record(uid="u", namespace="", name="", state=RecordState.STARTED, boot_id="")
MINIMAL = {"uid": "u", "namespace": "", "name": "", "state": "started", "bootId": ""}


@pytest.mark.parametrize("record", [FULL, EMPTY], ids=["full", "empty"])
def test_record_is_read_as_written(record):
    assert codec.decode(codec.encode(record)) == record


def test_unknown_fields_are_kept():
    data = codec.encode(codec.decode(codec.encode(FULL)))
    body = json.loads(data)["record"]
    assert body["newField"] == {"a": 1}
    assert body["devices"][0]["later"] == [1]


def test_newer_schema_is_refused_by_name():
    with pytest.raises(RecordError, match="schema 7, this release reads up to 1"):
        codec.decode(record_file({"anything": 1}, schema=7))


def test_older_schema_is_upgraded_step_by_step():
    old = {"uid": "u", "ns": "n", "name": "c", "state": "started", "bootId": "b"}
    upgrade = {0: lambda body: {**body, "namespace": body.pop("ns")}}
    assert codec.decode(record_file(old, schema=0), upgrades=upgrade).namespace == "n"


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_truncated_file_is_refused(cut):
    with pytest.raises(RecordError):
        codec.decode(codec.encode(FULL)[: -(cut + 1)])


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_garbled_byte_is_refused(position, flip):
    data = bytearray(codec.encode(FULL))
    data[position % len(data)] ^= flip
    with contextlib.suppress(RecordError):
        assert codec.decode(bytes(data)) == FULL


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data):
    with pytest.raises(RecordError):
        codec.decode(data)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "array"),
        (None, r"`null` \(null\)"),
        ({}, "uid"),
        ({**MINIMAL, "uid": 1}, "uid: "),
        ({**MINIMAL, "state": "eaten"}, "state: invalid enum value 'eaten'"),
        ({**MINIMAL, "state": "completed"}, "cdi: missing"),
        ({**MINIMAL, "devices": [{}]}, r"devices\[0\]: .*`request`"),
        ({**MINIMAL, "devices": 3}, r"devices: .*\(3\)"),
        ({**MINIMAL, "claim": []}, "claim: "),
        (
            {**MINIMAL, "claim": {"results": [{"request": 7}]}},
            r"claim.results\[0\].request: .*\(7\)",
        ),
        ({**MINIMAL, "cdi": {"devices": [{"name": "d"}]}}, "cdi.devices.*`containerEdits`"),
        ({**MINIMAL, "effects": "no"}, "effects: "),
        ({**MINIMAL, "holds": [1]}, r"holds\[0\]: .*\(1\)"),
    ],
)
def test_wrong_content_is_refused_naming_the_field(body, field):
    with pytest.raises(RecordError, match=field):
        codec.decode(record_file(body))


@pytest.mark.parametrize(
    "name", ["gpu-time-sliced", "gpu-admin", "gpu-started", "channel", "unknown-fields"]
)
def test_golden_file_is_written_back_unchanged(name):
    data = (GOLDEN / f"{name}.json").read_bytes()
    again = codec.encode(codec.decode(data))
    if name == "unknown-fields":  # these come first now
        assert json.loads(again)["record"] == json.loads(data)["record"]
    else:
        assert again == data


def test_golden_claim_is_read_completely():
    record = codec.decode((GOLDEN / "gpu-time-sliced.json").read_bytes())
    claim = record.to_claim()
    assert [(r.device, r.share_id is None) for r in claim.results] == [
        ("gpu-0", False),
        ("gpu-1", True),
    ]
    assert claim.results[0].consumed_capacity == {"memory": "10Gi"}
    assert [config.requests for config in claim.configs] == [("r0",), ()]
    assert claim.annotations == {"resource.kubernetes.io/pod-claim-name": "gpus"}


@pytest.mark.parametrize("details", [{"a": "\ud800"}, {"a": object()}])
def test_value_that_is_no_json_is_not_written(details):
    device = PreparedDevice(request="r", pool="p", device="d", cdi_ids=(), details=details)
    record = Record(
        uid="u", namespace="", name="", state=RecordState.STARTED, boot_id="", devices=(device,)
    )
    with pytest.raises(RecordError, match="cannot be written"):
        codec.encode(record)
