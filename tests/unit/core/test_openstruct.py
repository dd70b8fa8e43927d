"""OpenStruct: unknown members survive, empty fields are left out, errors name field and value."""

from __future__ import annotations

from typing import Any

import pytest

from nvdra_core.openstruct import OpenStruct, convert, from_json, quote, to_json


class Part(OpenStruct, frozen=True, kw_only=True):
    name: str
    is_on: bool = True
    size_bytes: int | None = None


class Whole(OpenStruct, frozen=True, kw_only=True):
    parts: tuple[Part, ...]
    extra: Part | None = None


def test_unknown_members_survive_at_every_depth() -> None:
    raw = {
        "later": 1,
        "parts": [{"name": "a", "later": [2]}, {"name": "b"}],
        "extra": {"name": "c", "later": None},
    }
    whole = from_json(raw, Whole)
    assert whole.parts[0].unknown == {"later": [2]}
    assert to_json(whole) == {
        "later": 1,
        "parts": [
            {"later": [2], "name": "a", "isOn": True},
            {"name": "b", "isOn": True},
        ],
        "extra": {"later": None, "name": "c", "isOn": True},
    }


@pytest.mark.parametrize(
    ("part", "body"),
    [
        (Part(name=""), {"name": "", "isOn": True}),
        (Part(name="a", is_on=False), {"name": "a", "isOn": False}),
        (Part(name="a", size_bytes=0), {"name": "a", "isOn": True, "sizeBytes": 0}),
    ],
)
def test_only_empty_optional_fields_are_left_out(part: Part, body: dict[str, Any]) -> None:
    assert to_json(part) == body
    assert from_json(body, Part) == part


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "expected `object`, got `array` ([])"),
        ({}, "object missing required field `parts`"),
        ({"parts": [{"name": 7}]}, "parts[0].name: expected `str`, got `int` (7)"),
        ({"parts": [{}]}, "parts[0]: object missing required field `name`"),
    ],
)
def test_error_names_field_problem_and_value(raw: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        convert(raw, Whole)
    assert str(caught.value) == message


def test_quoted_value_is_cut() -> None:
    assert quote("\ud800") == '"\\ud800"'
    assert len(quote("x" * 1000)) < 100
