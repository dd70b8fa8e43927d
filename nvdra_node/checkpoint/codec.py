"""Record <-> the bytes of its file. Pure. Used by ``store`` alone.

A file is one line of JSON whose beginning never changes, whatever the release::

    {"schema":1,"checksum":"crc32:9ae0daaf","record":{...}}

The checksum covers the bytes of ``record`` as they stand, so verifying needs no re-encoding and a field more or less
breaks nothing (upstream's #1080, #1326). An older schema is brought up step by step through ``Upgrades``; a newer one
is refused by name, and its file is left whole for the release that wrote it.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nvdra_core.errors import RecordError
from nvdra_core.value import fields, required
from nvdra_node.checkpoint.model import SCHEMA_VERSION, PreparedDevice, Record, RecordState

Upgrades = Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]
"""From each older schema to the next: ``{1: what makes schema 2 of it}``."""

UPGRADES: Upgrades = {}
"""Empty: schema 1 is the first."""

_encode_json = json.JSONEncoder(separators=(",", ":")).encode
_HEAD = re.compile(rb'\{"schema":(\d{1,9}),"checksum":"crc32:([0-9a-f]{8})","record":')
_TAIL = b"}\n"


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


_RECORD_KEYS = {_camel(name): name for name in fields(Record) if name != "unknown"}
_DEVICE_KEYS = {_camel(name): name for name in fields(PreparedDevice) if name != "unknown"}
_REQUIRED = required(Record) | required(PreparedDevice)


def encode(record: Record) -> bytes:
    """The file's bytes. Empty fields are left out."""
    body = _encode_fields(record, _RECORD_KEYS)
    body["state"] = record.state.value
    if record.devices:
        body["devices"] = [_encode_fields(device, _DEVICE_KEYS) for device in record.devices]
    text = _encode_json(body).encode()
    head = f'{{"schema":{SCHEMA_VERSION},"checksum":"crc32:{zlib.crc32(text):08x}","record":'
    return head.encode() + text + _TAIL


def decode(data: bytes, *, upgrades: Upgrades = UPGRADES) -> Record:
    """The record in a file. Raises RecordError saying what is wrong with it."""
    head = _HEAD.match(data)
    if head is None:
        raise RecordError("it does not begin like a record: garbled or empty")
    schema = int(head[1])
    if schema > SCHEMA_VERSION:
        raise RecordError(
            f"it has schema {schema}, this release reads up to {SCHEMA_VERSION}: "
            "written by a newer release, which can read it"
        )
    text = data[head.end() : -len(_TAIL)]
    if not data.endswith(_TAIL) or zlib.crc32(text) != int(head[2], 16):
        raise RecordError("its checksum is wrong: truncated or garbled")
    return _decode_body(text, schema, upgrades)


def _decode_body(text: bytes, schema: int, upgrades: Upgrades) -> Record:
    try:
        body = json.loads(text)
        for version in range(schema, SCHEMA_VERSION):
            body = upgrades[version](body)
        return _decode_record(body)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordError(f"its content is not a record of schema {schema}: {error!r}") from error


def _decode_record(body: dict[str, Any]) -> Record:
    known, unknown = _split(body, _RECORD_KEYS)
    known["state"] = RecordState(known["state"])
    known["devices"] = tuple(_decode_device(device) for device in known.get("devices", ()))
    known["effects"] = tuple(_all(dict, known.get("effects", ())))
    known["holds"] = tuple(_all(str, known.get("holds", ())))
    _all(dict, [known.get("claim", {}), known.get("cdi", {})])
    _all(dict, known.get("claim", {}).get("results", ()))
    _all(str, [known[name] for name in ("uid", "namespace", "name", "boot_id")])
    return Record(**known, unknown=unknown)


def _decode_device(body: dict[str, Any]) -> PreparedDevice:
    known, unknown = _split(body, _DEVICE_KEYS)
    known["cdi_ids"] = tuple(_all(str, known["cdi_ids"]))
    _all(str, [known[name] for name in ("request", "pool", "device")])
    return PreparedDevice(**known, unknown=unknown)


def _all(kind: type, values: Iterable[Any]) -> Iterable[Any]:
    """``values``, all of which must be of that kind. A text is no list of texts."""
    if isinstance(values, str) or not all(isinstance(value, kind) for value in values):
        raise TypeError(f"expected only {kind.__name__}, got {values!r}")
    return values


def _encode_fields(value: Record | PreparedDevice, keys: Mapping[str, str]) -> dict[str, Any]:
    body = dict(value.unknown)
    for key, name in keys.items():
        content = getattr(value, name)
        if content or name in _REQUIRED:
            body[key] = content
    return body


def _split(
    body: Mapping[str, Any], keys: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    known = {name: body[key] for key, name in keys.items() if key in body}
    return known, {key: value for key, value in body.items() if key not in keys}
