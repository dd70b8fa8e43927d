"""What the in-memory API server takes as a ResourceSlice, and what it refuses as a real one does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.apiserver import gates, slices

Obj = dict[str, Any]
COUNTERS = {"memory": {"value": "80Gi"}}


def a_device(name: str = "gpu-0", **fields: Any) -> Obj:
    return {"name": name, **fields}


def a_slice(**spec: Any) -> Obj:
    base = {
        "driver": "gpu.nvidia.com",
        "nodeName": "n",
        "pool": {"name": "n", "generation": 0, "resourceSliceCount": 1},
        "devices": [a_device()],
    }
    chosen = {key: value for key, value in {**base, **spec}.items() if value != "absent"}
    return {"metadata": {"name": "s"}, "spec": chosen}


def with_attribute(**value: Any) -> Obj:
    return a_slice(devices=[a_device(attributes={"a": value})])


TERM = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}
TAINT = {"key": "a/b", "value": "c", "effect": "NoSchedule"}
VALID = {
    "plain": a_slice(),
    "no devices": a_slice(devices=[]),
    "all nodes": a_slice(nodeName="absent", allNodes=True),
    "node selector": a_slice(nodeName="absent", nodeSelector={"nodeSelectorTerms": [TERM]}),
    "per device": a_slice(
        nodeName="absent", perDeviceNodeSelection=True, devices=[a_device(nodeName="n")]
    ),
    "counter sets alone": a_slice(
        devices="absent", sharedCounters=[{"name": "gpu-0", "counters": COUNTERS}]
    ),
    "pool of several parts": a_slice(
        pool={"name": "a/b.c", "generation": 5, "resourceSliceCount": 2}
    ),
    "false attribute": with_attribute(bool=False),
    "zero attribute": with_attribute(int=0),
    "version": with_attribute(version="580.65.6-rc.1+build"),
    "qualified name": a_slice(devices=[a_device(attributes={"a.b/c_d": {"string": "x"}})]),
    "number as quantity": a_slice(devices=[a_device(capacity={"c": {"value": "1e3"}})]),
    "taint": a_slice(devices=[a_device(taints=[TAINT])]),
}
INVALID = {
    "no spec": {"metadata": {"name": "s"}},
    "driver": a_slice(driver="GPU"),
    "long driver": a_slice(driver="a" * 64),
    "pool name": a_slice(pool={"name": "a//b", "resourceSliceCount": 1}),
    "pool generation": a_slice(pool={"name": "a", "generation": -1, "resourceSliceCount": 1}),
    "slice count": a_slice(pool={"name": "a", "generation": 1}),
    "no node selection": a_slice(nodeName="absent"),
    "two node selections": a_slice(allNodes=True),
    "empty node name": a_slice(nodeName=""),
    "all nodes false": a_slice(nodeName="absent", allNodes=False),
    "two terms": a_slice(nodeName="absent", nodeSelector={"nodeSelectorTerms": [TERM, TERM]}),
    "device without node": a_slice(nodeName="absent", perDeviceNodeSelection=True),
    "device with node": a_slice(devices=[a_device(nodeName="n")]),
    "empty devices with counters": a_slice(
        devices=[], sharedCounters=[{"name": "gpu-0", "counters": COUNTERS}]
    ),
    "counter set named twice": a_slice(
        devices="absent", sharedCounters=[{"name": "gpu-0", "counters": COUNTERS}] * 2
    ),
    "nine counter sets": a_slice(
        devices="absent",
        sharedCounters=[{"name": f"gpu-{n}", "counters": COUNTERS} for n in range(9)],
    ),
    "empty counter set": a_slice(devices="absent", sharedCounters=[{"name": "c", "counters": {}}]),
    "counter name": a_slice(
        devices="absent", sharedCounters=[{"name": "c", "counters": {"A_b": {"value": "1"}}}]
    ),
    "three consumptions": a_slice(
        devices=[
            a_device(
                consumesCounters=[{"counterSet": f"c{n}", "counters": COUNTERS} for n in range(3)]
            )
        ]
    ),
    "set consumed twice": a_slice(
        devices=[a_device(consumesCounters=[{"counterSet": "c", "counters": COUNTERS}] * 2)]
    ),
    "65 tainted": a_slice(devices=[a_device(f"gpu-{n}", taints=[TAINT]) for n in range(65)]),
    "17 taints": a_slice(devices=[a_device(taints=[TAINT] * 17)]),
    "taint effect": a_slice(devices=[a_device(taints=[{**TAINT, "effect": "Explode"}])]),
    "taint key": a_slice(devices=[a_device(taints=[{"effect": "NoSchedule"}])]),
    "device name": a_slice(devices=[a_device("GPU_0")]),
    "attribute without value": with_attribute(),
    "attribute with two values": with_attribute(int=1, string="x"),
    "attribute of unknown type": with_attribute(float=1.5),
    "bool as int": with_attribute(int=True),
    "long string": with_attribute(string="ü" * 33),
    "version without patch": with_attribute(version="13.0"),
    "empty list": with_attribute(ints=[]),
    "attribute name": a_slice(devices=[a_device(attributes={"a-b": {"int": 1}})]),
    "33 attributes": a_slice(
        devices=[a_device(attributes={f"a{n}": {"int": n} for n in range(33)})]
    ),
    "quantity": a_slice(devices=[a_device(capacity={"c": {"value": "many"}})]),
    "policy without sharing": a_slice(
        devices=[a_device(capacity={"c": {"value": "1", "requestPolicy": {"default": "1"}}})]
    ),
    "five binding conditions": a_slice(devices=[a_device(bindingConditions=list("abcde"))]),
}


@pytest.mark.parametrize("obj", VALID.values(), ids=VALID.keys())
def test_valid_slice_is_taken(obj: Obj) -> None:
    assert slices.validate(obj, None, 36) == []


@pytest.mark.parametrize("obj", INVALID.values(), ids=INVALID.keys())
def test_invalid_slice_is_refused(obj: Obj) -> None:
    assert slices.validate(obj, None, 36) != []


def test_old_servers_want_counters_next_to_the_devices() -> None:
    consumed = [{"counterSet": "gpu-0", "counters": COUNTERS}]
    combined = a_slice(
        sharedCounters=[{"name": "gpu-0", "counters": COUNTERS}],
        devices=[a_device(consumesCounters=consumed)],
    )
    assert slices.validate(combined, None, 34) == []
    assert slices.validate(combined, None, 35) != []
    apart = a_slice(devices=[a_device(consumesCounters=consumed)])
    assert slices.validate(apart, None, 34) != []
    assert slices.validate(apart, None, 35) == []


@pytest.mark.parametrize(
    "change",
    [{"driver": "x.y"}, {"nodeName": "m"}, {"pool": {"name": "m", "resourceSliceCount": 1}}],
)
def test_identity_of_a_slice_cannot_change(change: Obj) -> None:
    assert slices.validate(a_slice(**change), a_slice(), 36) != []


def test_unknown_fields_are_pruned_and_named() -> None:
    obj = a_slice(colour="green", devices=[a_device(size=1)])
    kept, unknown = slices.prune(obj)
    assert kept["spec"] == a_slice()["spec"]
    assert unknown == ["spec.colour", "spec.devices[0].size"]


FULL = a_slice(
    nodeName="absent",
    perDeviceNodeSelection=True,
    devices=[
        a_device(
            nodeName="n",
            taints=[TAINT],
            consumesCounters=[{"counterSet": "c", "counters": COUNTERS}],
            bindsToNode=True,
            allowMultipleAllocations=True,
            capacity={"c": {"value": "1", "requestPolicy": {"default": "1"}}},
        )
    ],
)


def test_nothing_is_dropped_with_all_gates_on() -> None:
    on = dict.fromkeys(gates.GATES_ON, True)
    assert gates.drop_slice_fields(on, FULL, None) == FULL


def test_all_that_gates_guard_is_dropped_with_them_off() -> None:
    off = dict.fromkeys(gates.GATES_ON, False)
    dropped = gates.drop_slice_fields(off, FULL, None)
    assert dropped["spec"]["devices"] == [a_device(capacity={"c": {"value": "1"}})]
    assert "perDeviceNodeSelection" not in dropped["spec"]


def test_field_in_use_is_kept() -> None:
    off = dict.fromkeys(gates.GATES_ON, False)
    assert gates.drop_slice_fields(off, FULL, FULL) == FULL


def test_gates_follow_the_version_and_the_settings() -> None:
    assert not gates.defaults(34, {})["DRADeviceTaints"]
    assert gates.defaults(36, {})["DRADeviceTaints"]
    assert not gates.defaults(36, {"DRADeviceTaints": False})["DRADeviceTaints"]
    with pytest.raises(ValueError, match="DRATypo"):
        gates.defaults(36, {"DRATypo": True})
