"""Record <-> the bytes of its file. Pure. Used by ``store`` alone.

A file is one line of JSON whose beginning is the same in all releases::

    {"schema":1,"checksum":"crc32:9ae0daaf","record":{...}}

The checksum covers the bytes of ``record``, so verifying needs no re-encoding, and fields that a release adds or drops
do not invalidate it (upstream's #1080, #1326). An older schema is converted step by step through ``Upgrades``. A newer
one is refused, and its file is left unchanged for the release that wrote it; ``decode_newer`` extracts what protects
its devices meanwhile.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec.structs import fields

from nvdra_core.errors import RecordError
from nvdra_core.openstruct import OpenStruct, convert, from_json, to_json
from nvdra_node.checkpoint.claim import Allocation, AllocationResult
from nvdra_node.checkpoint.model import SCHEMA_VERSION, PreparedDevice, Record, RecordState

Upgrades = Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]
"""From each older schema to the next: ``{1: what makes schema 2 of it}``."""

UPGRADES: Upgrades = {}
"""Empty: schema 1 is the first."""

UNKNOWN = "?"
"""Namespace or name of a claim that a newer record does not contain in a known form."""

_HEAD = re.compile(rb'\{"schema":(\d{1,9}),"checksum":"crc32:([0-9a-f]{8})","record":')
_TAIL = b"}\n"

T = TypeVar("T", bound=OpenStruct)


class NewerRecord(msgspec.Struct, frozen=True):
    """What is readable of a record of a newer schema."""

    record: Record
    """With an empty ``boot_id`` when that is not readable."""
    schema: int
    is_whole: bool
    """All of it has the form that this release knows, so this release can undo it."""


def encode(record: Record) -> bytes:
    """The file's bytes. Raises RecordError when a value cannot be written as JSON."""
    try:
        text = msgspec.json.encode(to_json(record))
    except (ValueError, TypeError, OverflowError) as error:
        raise RecordError(f"record of claim {record.ref} cannot be written: {error}") from error
    head = f'{{"schema":{SCHEMA_VERSION},"checksum":"crc32:{zlib.crc32(text):08x}","record":'
    return head.encode() + text + _TAIL


def decode(data: bytes, *, upgrades: Upgrades = UPGRADES) -> Record:
    """The record in a file. Raises RecordError naming the field that is wrong."""
    schema, text = _open(data)
    if schema > SCHEMA_VERSION:
        raise RecordError(
            f"it has schema {schema}, this release reads up to {SCHEMA_VERSION}: "
            "written by a newer release, which can read it"
        )
    try:
        body = _parse(data, text)
        for version in range(schema, SCHEMA_VERSION):
            body = upgrades[version](body)
        record = from_json(body, Record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordError(f"its content is not a record of schema {schema}: {error}") from error
    if record.state is RecordState.COMPLETED and record.cdi is None:
        raise RecordError("its content is not a record: cdi: missing from a completed record")
    return record


def is_newer(data: bytes) -> bool:
    """Whether a file begins like a record of a newer schema."""
    head = _HEAD.match(data)
    return head is not None and int(head[1]) > SCHEMA_VERSION


def decode_newer(data: bytes) -> NewerRecord:
    """What is readable of a file of a newer schema. Raises RecordError when it does not even name its claim."""
    schema, text = _open(data)
    body = _parse(data, text)
    with contextlib.suppress(ValueError):
        record = from_json(body, Record)
        if not record.unknown and not any(device.unknown for device in record.devices):
            return NewerRecord(record, schema, is_whole=True)
    if not isinstance(body, dict) or not isinstance(body.get("uid"), str):
        raise RecordError(f"schema {schema} has no claim uid that this release can read")
    return NewerRecord(_readable(body), schema, is_whole=False)


def _open(data: bytes) -> tuple[int, bytes]:
    """The schema, and the text of the record."""
    head = _HEAD.match(data)
    if head is None:
        raise RecordError("it does not begin like a record: garbled or empty")
    return int(head[1]), data[head.end() : -len(_TAIL)]


def _parse(data: bytes, text: bytes) -> Any:
    head = _HEAD.match(data)
    if head is None or not data.endswith(_TAIL) or zlib.crc32(text) != int(head[2], 16):
        raise RecordError("its checksum is wrong: truncated or garbled")
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"its record is not JSON: {error}") from error


def _readable(body: Mapping[str, Any]) -> Record:
    """A record with those fields that have a known form."""
    devices = [
        _salvage(each, PreparedDevice, request="", pool="", device="", cdi_ids=())
        for each in _items(body, "devices", dict)
    ]
    claim = body.get("claim")
    results = [
        _salvage(each, AllocationResult, request="", pool="", device="")
        for each in (_items(claim, "results", dict) if isinstance(claim, dict) else ())
    ]
    record = _salvage(
        {key: value for key, value in body.items() if key not in ("devices", "claim", "cdi")},
        Record,
        namespace=UNKNOWN,
        name=UNKNOWN,
        state=RecordState.STARTED,
        boot_id="",
        effects=tuple(_items(body, "effects", dict)),
        holds=tuple(_items(body, "holds", str)),
    )
    return msgspec.structs.replace(
        record,
        devices=tuple(device for device in devices if device.device),
        claim=Allocation(results=tuple(result for result in results if result.device)),
    )


def _salvage(body: Mapping[str, Any], kind: type[T], **defaults: Any) -> T:
    """A struct with those fields that can be read, the others by default."""
    for field in fields(kind):
        if field.encode_name in body:
            with contextlib.suppress(ValueError):
                defaults[field.name] = convert(body[field.encode_name], field.type)
    return kind(**defaults)


def _items(body: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    """Those items of a list that have a type."""
    found = body.get(key)
    return [each for each in found if isinstance(each, kind)] if isinstance(found, list) else []
