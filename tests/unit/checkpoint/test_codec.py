"""Records as bytes: read as written, kept when newer, refused when damaged."""

import contextlib
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra_core.errors import RecordError
from nvdra_node.checkpoint import codec
from nvdra_node.checkpoint.model import PreparedDevice, Record, RecordState

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
    claim={"results": [{"device": "gpu-0"}]},
    cdi={"devices": []},
    unknown={"newField": {"a": 1}},
)
EMPTY = Record(uid="u", namespace="", name="", state=RecordState.STARTED, boot_id="")


def file_of(body, schema=1):
    text = json.dumps(body, separators=(",", ":")).encode()
    return b'{"schema":%d,"checksum":"crc32:%08x","record":%s}\n' % (schema, zlib.crc32(text), text)


@pytest.mark.parametrize("record", [FULL, EMPTY], ids=["full", "empty"])
def test_a_record_is_read_as_it_was_written(record):
    assert codec.decode(codec.encode(record)) == record


def test_a_file_is_json():
    assert json.loads(codec.encode(FULL))["record"]["cdi"] == {"devices": []}


def test_fields_of_a_later_release_are_kept():
    data = codec.encode(codec.decode(codec.encode(FULL)))
    body = json.loads(data)["record"]
    assert body["newField"] == {"a": 1}
    assert body["devices"][0]["later"] == [1]


def test_a_newer_schema_is_refused_by_name():
    with pytest.raises(RecordError, match="schema 7, this release reads up to 1"):
        codec.decode(file_of({"anything": 1}, schema=7))


def test_an_older_schema_is_brought_up_step_by_step():
    old = {"uid": "u", "ns": "n", "name": "c", "state": "started", "bootId": "b"}
    upgrade = {0: lambda body: {**body, "namespace": body.pop("ns")}}
    assert codec.decode(file_of(old, schema=0), upgrades=upgrade).namespace == "n"


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_truncated_file_is_refused(cut):
    with pytest.raises(RecordError):
        codec.decode(codec.encode(FULL)[: -(cut + 1)])


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_garbled_byte_never_passes_for_the_record(position, flip):
    data = bytearray(codec.encode(FULL))
    data[position % len(data)] ^= flip
    with contextlib.suppress(RecordError):
        assert codec.decode(bytes(data)) == FULL


@given(st.binary(max_size=200))
def test_any_bytes_give_a_record_or_a_record_error(data):
    with pytest.raises(RecordError):
        codec.decode(data)


@pytest.mark.parametrize(
    "body",
    [
        [],
        None,
        {},
        {"uid": "u"},
        {"uid": 1, "namespace": "", "name": "", "state": "started", "bootId": ""},
        {"uid": "u", "namespace": "", "name": "", "state": "eaten", "bootId": ""},
        {
            "uid": "u",
            "namespace": "",
            "name": "",
            "state": "started",
            "bootId": "",
            "devices": [{}],
        },
        {"uid": "u", "namespace": "", "name": "", "state": "started", "bootId": "", "devices": 3},
        {"uid": "u", "namespace": "", "name": "", "state": "started", "bootId": "", "claim": []},
        {
            "uid": "u",
            "namespace": "",
            "name": "",
            "state": "started",
            "bootId": "",
            "effects": "no",
        },
        {"uid": "u", "namespace": "", "name": "", "state": "started", "bootId": "", "holds": [1]},
    ],
)
def test_content_that_is_no_record_is_refused(body):
    with pytest.raises(RecordError):
        codec.decode(file_of(body))


def test_all_fields_of_a_record_are_written():
    written = json.loads(codec.encode(FULL))["record"]
    assert len(written) == len(Record.__struct_fields__) - 1 + len(FULL.unknown)
