"""Record <-> the bytes of its file. Pure. Used by ``store`` alone.

A file is one line of JSON whose beginning never changes, whatever the release::

    {"schema":1,"checksum":"crc32:9ae0daaf","record":{...}}

The checksum covers the bytes of ``record`` as they stand, so verifying needs no re-encoding and a field more or less
breaks nothing (upstream's #1080, #1326). An older schema is brought up step by step through ``Upgrades``; a newer one
is refused by name, and its file is left whole for the release that wrote it. ``decode_newer`` gets
out of it what protects its devices meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from nvdra_core.errors import RecordError
from nvdra_node.checkpoint.model import SCHEMA_VERSION, PreparedDevice, Record, RecordState

Upgrades = Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]
"""From each older schema to the next: ``{1: what makes schema 2 of it}``."""

UPGRADES: Upgrades = {}
"""Empty: schema 1 is the first."""

UNKNOWN = "?"
"""Namespace or name of a claim that a newer record does not say in a way that is known here."""


class Newer(msgspec.Struct, frozen=True):
    """What is readable of a record of a newer schema."""

    record: Record
    """With an empty ``boot_id`` when that is not readable."""
    schema: int
    is_whole: bool
    """All of it has the form that this release knows, so this release can undo it."""


_encode_json = json.JSONEncoder(separators=(",", ":")).encode
_HEAD = re.compile(rb'\{"schema":(\d{1,9}),"checksum":"crc32:([0-9a-f]{8})","record":')
_TAIL = b"}\n"


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


_RECORD_KEYS = {_camel(name): name for name in Record.__struct_fields__ if name != "unknown"}
_DEVICE_KEYS = {
    _camel(name): name for name in PreparedDevice.__struct_fields__ if name != "unknown"
}
_REQUIRED = {
    field.name
    for kind in (Record, PreparedDevice)
    for field in msgspec.structs.fields(kind)
    if field.required
}


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
    schema, text = _open(data)
    if schema > SCHEMA_VERSION:
        raise RecordError(
            f"it has schema {schema}, this release reads up to {SCHEMA_VERSION}: "
            "written by a newer release, which can read it"
        )
    return _decode_body(_checked(data, text), schema, upgrades)


def is_newer(data: bytes) -> bool:
    """Whether a file begins like a record of a newer schema."""
    head = _HEAD.match(data)
    return head is not None and int(head[1]) > SCHEMA_VERSION


def decode_newer(data: bytes) -> Newer:
    """What a file of a newer schema still tells. Raises RecordError when not even its claim."""
    schema, text = _open(data)
    try:
        body = json.loads(_checked(data, text))
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            record = _decode_record(body)
            if not record.unknown and not any(device.unknown for device in record.devices):
                return Newer(record, schema, is_whole=True)
        return Newer(_readable(body), schema, is_whole=False)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordError(f"schema {schema} has nothing known in it: {error!r}") from error


def _open(data: bytes) -> tuple[int, bytes]:
    """The schema, and the text of the record."""
    head = _HEAD.match(data)
    if head is None:
        raise RecordError("it does not begin like a record: garbled or empty")
    return int(head[1]), data[head.end() : -len(_TAIL)]


def _checked(data: bytes, text: bytes) -> bytes:
    head = _HEAD.match(data)
    if head is None or not data.endswith(_TAIL) or zlib.crc32(text) != int(head[2], 16):
        raise RecordError("its checksum is wrong: truncated or garbled")
    return text


def _readable(body: Mapping[str, Any]) -> Record:
    """A record with those fields that have a known form. What is not known of a device excludes others from it."""
    devices = [_readable_device(entry) for entry in _objects(body, "devices")]
    results = [entry for entry in _objects(body.get("claim"), "results") if _text(entry, "device")]
    holds = body.get("holds")
    return Record(
        uid=_all_texts([body["uid"]])[0],
        namespace=_text(body, "namespace") or UNKNOWN,
        name=_text(body, "name") or UNKNOWN,
        state=RecordState.COMPLETED if body.get("state") == "completed" else RecordState.STARTED,
        boot_id=_text(body, "bootId"),
        effects=tuple(_objects(body, "effects")),
        devices=tuple(device for device in devices if device.device),
        holds=tuple(each for each in holds if isinstance(each, str))
        if isinstance(holds, list)
        else (),
        config_key=_text(body, "configKey"),
        claim={"results": results},
    )


def _readable_device(body: Mapping[str, Any]) -> PreparedDevice:
    ids = body.get("cdiIds")
    return PreparedDevice(
        request=_text(body, "request"),
        pool=_text(body, "pool"),
        device=_text(body, "device"),
        cdi_ids=tuple(_all_texts(ids)) if isinstance(ids, list) else (),
        share_id=_text(body, "shareId") or None,
        admin_access=body.get("adminAccess") is True,
    )


def _objects(body: Any, key: str) -> list[dict[str, Any]]:
    found = body.get(key) if isinstance(body, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _text(body: Mapping[str, Any], key: str) -> str:
    found = body.get(key)
    return found if isinstance(found, str) else ""


def _all_texts(values: list[Any]) -> list[str]:
    return list(_all(str, values))


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
