"""Slices: limits, names, generations, equality, and what a consumer sees in between."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdra_node.kubeletplugin.driver import Pool
from nvdra_node.kubeletplugin.slices import diff, layout
from nvdra_node.kubeletplugin.slices.layout import PoolError
from tests.unit.kubeletplugin.slicestore import TARGET, SliceStore


def device(number: int, **more: Any) -> dict[str, Any]:
    return {"name": f"gpu-{number}", "attributes": {"index": {"int": number}}, **more}


TAINT = {"key": "gpu.nvidia.com/gpu-lost", "effect": "NoExecute"}


def tainted(number: int) -> dict[str, Any]:
    return device(number, taints=[dict(TAINT)])


def consumer(number: int, *sets: int) -> dict[str, Any]:
    counters = {"memory": {"value": "1Gi"}}
    return device(
        number, consumesCounters=[{"counterSet": f"set-{s}", "counters": counters} for s in sets]
    )


def counter_set(number: int) -> dict[str, Any]:
    return {"name": f"set-{number}", "counters": {"memory": {"value": "80Gi"}}}


def parts_of(
    *devices: dict[str, Any], sets: int = 0, is_split: bool = True
) -> tuple[dict[str, Any], ...]:
    pool = Pool(devices=devices, shared_counters=tuple(counter_set(n) for n in range(sets)))
    return layout.layout(pool, is_split=is_split)


def shape(parts: tuple[dict[str, Any], ...]) -> list[tuple[int, int]]:
    """(devices, counter sets) of each slice."""
    return [(len(p.get("devices", ())), len(p.get("sharedCounters", ()))) for p in parts]


# What goes where


def test_empty_pool_is_one_slice_without_devices() -> None:
    assert parts_of() == ({},)


@pytest.mark.parametrize(
    ("plain", "loaded", "expected"),
    [
        (128, 0, [128]),
        (129, 0, [128, 1]),
        (0, 64, [64]),
        (0, 65, [64, 1]),
        (63, 1, [64]),
        (64, 1, [64, 1]),
        (100, 1, [100, 1]),
        (0, 8, [8]),
    ],
)
def test_slices_hold_128_devices_or_64_with_taints(
    plain: int, loaded: int, expected: list[int]
) -> None:
    devices = [*map(device, range(plain)), *(tainted(plain + n) for n in range(loaded))]
    assert [count for count, _ in shape(parts_of(*devices))] == expected


def test_counters_and_lists_lower_slice_limit() -> None:
    listed = device(0, attributes={"numaNode": {"ints": [0]}})
    assert layout.is_extended(listed)
    assert layout.is_extended(consumer(0, 0))
    assert not layout.is_extended(device(0))


def test_counter_sets_are_in_own_slices_since_1_35() -> None:
    devices = [consumer(n, n % 9) for n in range(70)]
    assert shape(parts_of(*devices, sets=9)) == [(0, 8), (0, 1), (64, 0), (6, 0)]


def test_counter_sets_are_with_devices_before_1_35() -> None:
    devices = [consumer(0, 1), consumer(1, 0), device(2), consumer(3, 0)]
    parts = parts_of(*devices, sets=3, is_split=False)
    assert shape(parts) == [(2, 1), (1, 1), (0, 1), (1, 0)]
    assert [d["name"] for d in parts[0]["devices"]] == ["gpu-1", "gpu-3"]


def test_connected_counter_sets_share_slice_before_1_35() -> None:
    devices = [consumer(0, 0), consumer(1, 0, 2), consumer(2, 1)]
    assert shape(parts_of(*devices, sets=3, is_split=False)) == [(2, 2), (1, 1)]


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ([device(1), device(1)], "device gpu-1 is in the pool twice"),
        ([consumer(0, 5)], "there is no counter set set-5"),
    ],
)
def test_invalid_pool_is_reported(devices: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(PoolError, match=message):
        parts_of(*devices, sets=1)


def is_within_limits(spec: dict[str, Any], minor: int) -> bool:
    """The limits of a ResourceSlice in Kubernetes 1.``minor`` (staging/src/k8s.io/api/resource/v1/types.go)."""
    devices, sets = spec.get("devices", ()), spec.get("sharedCounters", ())
    consumed = {used["counterSet"] for d in devices for used in d.get("consumesCounters", ())}
    if minor < 35:
        is_complete = consumed <= {one["name"] for one in sets}
        return is_complete and len(devices) <= 128 and sum(len(s["counters"]) for s in sets) <= 32
    is_loaded = any(d.get("taints") or d.get("consumesCounters") for d in devices)
    return len(devices) <= (64 if is_loaded else 128) and len(sets) <= (0 if devices else 8)


SIZES = st.integers(0, 400)


@settings(max_examples=25, deadline=None)
@given(
    SIZES,
    st.sets(st.integers(0, 399)),
    st.sets(st.integers(0, 399)),
    st.sampled_from([33, 34, 35, 36]),
)
def test_layout_keeps_all_devices_within_limits(
    count: int, bad: set[int], shared: set[int], minor: int
) -> None:
    sets = 12
    devices = [consumer(n, n % sets) if n in shared else device(n) for n in range(count)]
    devices = [{**d, "taints": [dict(TAINT)]} if n in bad else d for n, d in enumerate(devices)]
    parts = parts_of(*devices, sets=sets if shared else 0, is_split=minor >= 35)
    store = SliceStore()
    store.publish(parts)
    for obj in store.objects.values():
        assert is_within_limits(obj["spec"], minor)
    names = store.pool()
    assert names is not None and sorted(names) == sorted(d["name"] for d in devices)
    if minor >= 35:
        assert names == [d["name"] for d in devices]  # the order is the preference
    assert not diff.diff(TARGET, parts, store.objects.values())


# Names, owners, generations


def test_new_slice_has_go_library_name_and_node_owner() -> None:
    store = SliceStore()
    changes = store.publish(parts_of(device(0)))
    ((_, body),) = changes.create
    assert body["metadata"]["generateName"] == "00000-gpu.nvidia.com-node-1-"
    assert body["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "name": "node-1",
            "uid": "node-uid",
            "controller": True,
        }
    ]
    assert body["spec"] == {
        "driver": "gpu.nvidia.com",
        "nodeName": "node-1",
        "pool": {"name": "node-1", "generation": 1, "resourceSliceCount": 1},
        "devices": [device(0)],
    }


def test_name_index_widens_beyond_16_to_the_5th_slices() -> None:
    assert diff.name_prefix(TARGET, 10, 16**5) == "0000a-gpu.nvidia.com-node-1-"
    assert diff.name_prefix(TARGET, 10, 16**5 + 1) == "00000a-gpu.nvidia.com-node-1-"


def test_unchanged_pool_writes_nothing() -> None:
    store = SliceStore()
    store.publish(parts_of(device(0), device(1)))
    assert not store.publish(parts_of(device(0), device(1)))


def test_change_of_one_slice_keeps_generation() -> None:
    store = SliceStore()
    store.publish(parts_of(*map(device, range(200))))
    changes = store.publish(parts_of(*map(device, range(199)), device(199, capacity={})))
    assert not changes  # an empty map is none
    changed = [*map(device, range(199)), device(199, capacity={"m": {"value": "1"}})]
    changes = store.publish(parts_of(*changed))
    assert [index for index, _ in changes.update] == [1]
    assert (changes.generation, changes.create, changes.delete) == (1, (), ())


def test_change_of_several_slices_raises_generation() -> None:
    store = SliceStore()
    store.publish(parts_of(*map(device, range(300))))
    changes = store.publish(parts_of(*map(device, range(1, 301))))
    assert (changes.generation, len(changes.update), len(changes.create)) == (2, 3, 0)


def test_growing_pool_keeps_existing_slices() -> None:
    store = SliceStore()
    store.publish(parts_of(device(0)))
    (name,) = store.objects
    changes = store.publish(parts_of(*map(device, range(200))))
    assert name in store.objects and not changes.delete
    assert changes.generation == 2 and len(store.objects) == 2


def test_shrinking_pool_is_complete_at_every_step() -> None:
    store = SliceStore()
    store.publish(parts_of(*map(device, range(300))))
    changes = diff.diff(TARGET, parts_of(device(7)), store.objects.values())
    for _ in store.steps(changes):
        assert store.pool() == ["gpu-7"]
    assert len(store.objects) == 1


def test_interrupted_change_is_completed_without_delete() -> None:
    store = SliceStore()
    store.publish(parts_of(*map(device, range(300))))
    before = set(store.objects)
    wanted = parts_of(*map(device, range(1, 301)))
    next(store.steps(diff.diff(TARGET, wanted, store.objects.values())))
    changes = store.publish(wanted)
    assert not changes.delete and set(store.objects) == before
    assert store.pool() == [f"gpu-{n}" for n in range(1, 301)]


def test_duplicate_slices_of_one_index_are_merged() -> None:
    store = SliceStore()
    store.publish(parts_of(device(0)))
    ((name, obj),) = store.objects.items()
    twin = copy.deepcopy(obj)
    twin["metadata"]["name"] = name + "x"
    store.objects[name + "x"] = twin
    changes = diff.diff(TARGET, parts_of(device(0)), store.objects.values())
    for _ in store.steps(changes):
        assert store.pool() == ["gpu-0"]
    assert list(store.objects) == [name] and changes.generation == 2


@pytest.mark.parametrize(
    "name", ["node-1-gpu.nvidia.com-abcde", "00007-gpu.nvidia.com-node-1-abcde"]
)
def test_slices_without_valid_index_are_deleted(name: str) -> None:
    store = SliceStore()
    store.publish(parts_of(device(0)))
    ((_, obj),) = store.objects.items()
    obj["metadata"]["name"] = name
    store.objects = {name: obj}
    store.publish(parts_of(device(0)))
    assert name not in store.objects and store.pool() == ["gpu-0"]


def test_slices_of_other_drivers_and_nodes_are_kept() -> None:
    store = SliceStore()
    store.publish(parts_of(device(0)))
    for key, value in (("driver", "other.example.com"), ("nodeName", "node-2")):
        other = copy.deepcopy(next(iter(store.objects.values())))
        other["spec"][key] = value
        assert not diff.diff(TARGET, parts_of(device(0)), [*store.objects.values(), other])


def test_other_pool_of_same_driver_and_node_is_deleted() -> None:
    store = SliceStore()
    store.publish(parts_of(device(0)))
    other = copy.deepcopy(next(iter(store.objects.values())))
    other["metadata"]["name"] = "00000-other"
    other["spec"]["pool"]["name"] = "leftover"
    changes = diff.diff(TARGET, parts_of(device(0)), [*store.objects.values(), other])
    assert [obj["metadata"]["name"] for obj in changes.delete] == ["00000-other"]


def test_slices_get_owner_reference_of_recreated_node() -> None:
    store = SliceStore()
    store.publish(parts_of(device(0)))
    changes = store.publish(
        parts_of(device(0)), diff.Target(driver=TARGET.driver, node="node-1", node_uid="new")
    )
    ((_, body),) = changes.update
    assert body["metadata"]["ownerReferences"][0]["uid"] == "new"


def test_update_keeps_foreign_fields() -> None:
    store = SliceStore()
    store.publish(parts_of(device(0)))
    ((name, obj),) = store.objects.items()
    obj["metadata"]["labels"] = {"a": "b"}
    obj["spec"]["skipNodeOperations"] = ["*"]
    store.publish(parts_of(device(1)))
    assert store.objects[name]["metadata"]["labels"] == {"a": "b"}
    assert store.objects[name]["spec"]["skipNodeOperations"] == ["*"]


# Equality and taints


@pytest.mark.parametrize(
    ("ours", "stored", "same"),
    [
        ({"a": []}, {}, True),
        ({"a": None}, {"a": {}}, True),
        ({"value": "1024Mi"}, {"value": "1Gi"}, True),
        ({"value": "1"}, {"value": "2"}, False),
        ({"bool": False}, {}, False),
        ({"bool": True}, {"bool": 1}, False),
        ({"int": 0}, {}, False),
        ({"string": ""}, {}, False),
        ([1, 2], [2, 1], False),
        ({"validValues": ["1Gi"]}, {"validValues": ["1024Mi"]}, True),
        ({**TAINT, "value": "1"}, {**TAINT, "value": "1", "timeAdded": "t"}, True),
        ({**TAINT, "value": "1Gi"}, {**TAINT, "value": "1024Mi"}, False),
        ({**TAINT, "value": ""}, TAINT, True),
        ({"value": {"string": "x"}}, {"value": {"string": "x"}}, True),
    ],
)
def test_is_same_follows_api_equality(ours: Any, stored: Any, same: bool) -> None:
    assert diff.is_same(ours, stored) is same
    assert diff.is_same(stored, ours) is same


def test_stored_taint_time_is_kept() -> None:
    store = SliceStore()
    store.publish(parts_of(tainted(0), device(1)))
    ((name, obj),) = store.objects.items()
    obj["spec"]["devices"][0]["taints"][0]["timeAdded"] = "2026-01-01T00:00:00Z"
    assert not store.publish(parts_of(tainted(0), device(1)))
    store.publish(parts_of(tainted(0), tainted(1)))
    first, second = store.objects[name]["spec"]["devices"]
    assert first["taints"] == [{**TAINT, "timeAdded": "2026-01-01T00:00:00Z"}]
    assert second["taints"] == [TAINT]


@pytest.mark.parametrize(
    ("ours", "stored", "gates"),
    [
        (tainted(0), device(0), {"DRADeviceTaints"}),
        (consumer(0, 0), device(0), {"DRAPartitionableDevices"}),
        (device(0, allowMultipleAllocations=True), device(0), {"DRAConsumableCapacity"}),
        (device(0, bindingConditions=["a"]), device(0), {"DRADeviceBindingConditions"}),
        (device(0, attributes={"n": {"ints": [1]}}), device(0, attributes={"n": {}}), {"DRAListTypeAttributes"}),
        (device(0, later=1), device(0), {"unknown"}),
        (tainted(0), tainted(0), set()),
    ],
)  # fmt: skip
def test_dropped_field_names_its_gate(
    ours: dict[str, Any], stored: dict[str, Any], gates: set[str]
) -> None:
    sent, kept = ({"spec": {"devices": [d]}} for d in (ours, stored))
    assert diff.dropped(sent, kept) == gates


def test_dropped_counter_sets_name_their_gate() -> None:
    sent = {"spec": {"sharedCounters": [counter_set(0)]}}
    assert diff.dropped(sent, {"spec": {}}) == {"DRAPartitionableDevices"}
