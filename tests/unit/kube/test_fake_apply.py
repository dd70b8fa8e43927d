"""Server-side apply of the in-memory API server: who manages which field, and what a conflict says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.apiserver import apply
from tests.fakes.apiserver.apply import Owners
from tests.fakes.apiserver.status import StatusError

Obj = dict[str, Any]


def merge(
    live: Obj, applied: Obj, manager: str, owners: Owners, *, force: bool = False
) -> tuple[Obj, Owners]:
    return apply.merge(live, applied, manager, owners, force=force)


def a_status(*devices: str, **fields: Any) -> Obj:
    entries = [{"driver": "d", "pool": "p", "device": device, **fields} for device in devices]
    return {"status": {"devices": entries}}


def test_fields_of_several_managers_live_together() -> None:
    live, owners = merge({}, {"spec": {"a": 1}}, "one", {})
    live, owners = merge(live, {"spec": {"b": {"c": 2}}}, "two", owners)
    assert live == {"spec": {"a": 1, "b": {"c": 2}}}


def test_left_out_field_goes() -> None:
    live, owners = merge({}, {"spec": {"a": 1, "b": 2}}, "one", {})
    live, owners = merge(live, {"spec": {"b": 2}}, "one", owners)
    assert live == {"spec": {"b": 2}}


def test_left_out_field_stays_while_another_manages_it() -> None:
    live, owners = merge({}, {"spec": {"a": 1}}, "one", {})
    live, owners = merge(live, {"spec": {"a": 1}}, "two", owners)
    live, owners = merge(live, {"spec": {"b": 1}}, "one", owners)
    assert live["spec"] == {"a": 1, "b": 1}


def test_other_value_of_anothers_field_is_a_conflict() -> None:
    live, owners = merge({}, {"spec": {"a": 1}}, "one", {})
    with pytest.raises(StatusError, match='conflicts with "one"') as caught:
        merge(live, {"spec": {"a": 2}}, "two", owners)
    assert caught.value.code == 409
    live, owners = merge(live, {"spec": {"a": 2}}, "two", owners, force=True)
    assert live["spec"] == {"a": 2}
    assert ("one", "Apply") not in owners


def test_update_takes_fields_over() -> None:
    live, owners = merge({}, {"spec": {"a": 1, "b": 1}}, "one", {})
    changed = {"spec": {"a": 2, "b": 1}}
    owners = apply.after_update(live, changed, "writer", owners)
    with pytest.raises(StatusError, match='"writer"'):
        merge(changed, {"spec": {"a": 3}}, "one", owners)


def test_keyed_list_elements_have_owners_of_their_own() -> None:
    live, owners = merge({}, a_status("gpu-0", data={"x": 1}), "one", {})
    live, owners = merge(live, a_status("gpu-1"), "two", owners)
    live, owners = merge(live, a_status("gpu-2"), "one", owners)
    assert [entry["device"] for entry in live["status"]["devices"]] == ["gpu-1", "gpu-2"]


def test_raw_data_is_one_value() -> None:
    live, owners = merge({}, a_status("gpu-0", data={"x": 1}), "one", {})
    live, owners = merge(live, a_status("gpu-0", data={"y": 2}), "one", owners)
    assert live["status"]["devices"][0]["data"] == {"y": 2}


def test_plain_list_is_one_value() -> None:
    live, owners = merge({}, {"spec": {"l": [1, 2]}}, "one", {})
    live, owners = merge(live, {"spec": {"l": [3]}}, "one", owners)
    assert live["spec"]["l"] == [3]


def test_input_is_left_alone() -> None:
    live = {"spec": {"a": [1]}}
    merge(live, {"spec": {"a": [2]}}, "one", {})
    assert live == {"spec": {"a": [1]}}


@pytest.mark.parametrize(
    ("target", "patch", "wanted"),
    [
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1, "b": 1}, {"a": None}, {"b": 1}),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": 1}, {"a": {"b": None}}, {"a": {}}),
    ],
)
def test_merge_patch(target: Obj, patch: Obj, wanted: Obj) -> None:
    assert apply.merge_patch(target, patch) == wanted
