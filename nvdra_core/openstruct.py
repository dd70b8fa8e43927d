"""Structs that keep JSON members they do not know, and decoding whose errors name field and value.

For data that several releases read and write: node records, CDI edits, claims.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec.structs import FieldInfo, fields, replace

_QUOTE_LIMIT = 80
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")

T = TypeVar("T")


class OpenStruct(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of stored structs: JSON names in camel case; members of a later release are kept and written back."""

    unknown: Mapping[str, Any] = {}


def convert(raw: Any, kind: type[T]) -> T:
    """JSON -> ``kind``. Unknown members are ignored. Raises ValueError naming field, problem and value."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_explain(error, raw)) from error


def from_json(raw: Any, kind: type[T]) -> T:
    """JSON -> an OpenStruct with its unknown members. Raises ValueError naming field, problem and value."""
    value: T = _with_unknown(convert(raw, kind), raw)
    return value


def to_json(value: Any) -> Any:
    """What ``from_json`` reads. Fields that are None, empty or false by default are left out."""
    if isinstance(value, tuple):
        return [to_json(each) for each in value]
    if not isinstance(value, OpenStruct):
        return value
    body = dict(value.unknown)
    for field in _known(type(value)):
        content = getattr(value, field.name)
        if field.required or not _is_empty(content, field):
            body[field.encode_name] = to_json(content)
    return body


def quote(value: Any) -> str:
    """A value in a message: JSON in ASCII, cut when long; it may come from an attacker."""
    text = json.dumps(value, default=ascii)
    return text if len(text) <= _QUOTE_LIMIT else text[:_QUOTE_LIMIT] + "..."


def _explain(error: msgspec.ValidationError, raw: Any) -> str:
    """``devices[0].name: expected `str`, got `int` (7)``."""
    problem, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`")
    text = problem[0].lower() + problem[1:]
    if "missing required field" not in text:
        text += f" ({quote(_value_at(raw, path))})"
    return f"{path.lstrip('.')}: {text}" if path else text


@cache  # inspecting a class takes 0.1 ms
def _known(kind: type[OpenStruct]) -> tuple[FieldInfo, ...]:
    return tuple(field for field in fields(kind) if field.name != "unknown")


def _is_empty(content: Any, field: FieldInfo) -> bool:
    return (
        content is None or content in ("", (), {}) or (content is False and field.default is False)
    )


def _with_unknown(value: Any, raw: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_with_unknown, value, raw))
    if not isinstance(value, OpenStruct):
        return value
    names = {field.encode_name: field.name for field in _known(type(value))}
    inner = {
        name: _with_unknown(getattr(value, name), raw[key])
        for key, name in names.items()
        if raw.get(key) is not None
    }
    return replace(value, **inner, unknown={key: raw[key] for key in raw if key not in names})


def _value_at(raw: Any, path: str) -> Any:
    """The value at a path of msgspec (``.devices[0].name``), as deep as it can be followed."""
    with contextlib.suppress(LookupError, TypeError):
        for name, index in _STEP.findall(path):
            raw = raw[int(index) if index else name]
    return raw
