"""Server-side apply and merge patch of the in-memory API server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.apiserver.apply import apply, merge_patch

Obj = dict[str, Any]


def a_status(*devices: str, **fields: Any) -> Obj:
    entries = [{"driver": "d", "pool": "p", "device": device, **fields} for device in devices]
    return {"status": {"devices": entries}}


@pytest.mark.parametrize(
    ("live", "applied", "before", "expected"),
    [
        ({"a": 1}, {"b": {"c": 2}}, {}, {"a": 1, "b": {"c": 2}}),
        ({"a": 1, "b": 2}, {"b": 2}, {"a": 1, "b": 2}, {"b": 2}),
        ({"b": {"c": 1, "d": 1}}, {"b": {"d": 2}}, {"b": {"c": 1}}, {"b": {"d": 2}}),
        ({"l": [1, 2]}, {"l": [3]}, {}, {"l": [3]}),
        ({"data": {"x": 1}}, {"data": {"y": 2}}, {}, {"data": {"y": 2}}),
    ],
)
def test_apply_sets_and_removes_own_fields(
    live: Obj, applied: Obj, before: Obj, expected: Obj
) -> None:
    assert apply(live, applied, before) == expected


def test_apply_shares_keyed_lists() -> None:
    live = apply({}, a_status("gpu-0"), {})
    live = apply(live, a_status("nic-0"), {})
    live = apply(live, a_status("gpu-1"), a_status("gpu-0"))
    assert [entry["device"] for entry in live["status"]["devices"]] == ["nic-0", "gpu-1"]
    live = apply(live, {"status": {}}, a_status("gpu-1"))
    assert [entry["device"] for entry in live["status"]["devices"]] == ["nic-0"]


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1, "b": 1}, {"a": None}, {"b": 1}),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": 1}, {"a": {"b": None}}, {"a": {}}),
    ],
)
def test_merge_patch_follows_rfc_7386(target: Obj, patch: Obj, expected: Obj) -> None:
    assert merge_patch(target, patch) == expected
