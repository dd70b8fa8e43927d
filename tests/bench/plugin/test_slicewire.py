"""Slices in the protobuf form of Kubernetes. Bodies are built here by hand, field by field, as the specification says."""

from typing import Any

import pytest

from tests.bench.plugin import slicewire


def encoded(value: int) -> bytes:
    digits = bytearray()
    value &= (1 << 64) - 1
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def varint(number: int, value: int) -> bytes:
    return bytes([number << 3]) + encoded(value)


def field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + encoded(len(value)) + value


def text(number: int, value: str) -> bytes:
    return field(number, value.encode())


def entry(number: int, key: str, value: bytes) -> bytes:
    return field(number, text(1, key) + field(2, value))


def body(spec: bytes, *, kind: str = "ResourceSlice") -> bytes:
    meta = text(1, "resource.k8s.io/v1") + text(2, kind)
    raw = field(1, text(2, "n1-") + field(8, b"")) + field(2, spec)
    return slicewire.MAGIC + field(1, meta) + field(2, raw) + text(3, "")


def spec_of(raw: bytes) -> dict[str, Any]:
    spec: dict[str, Any] = slicewire.decode(body(raw))["spec"]
    return spec


def test_slice_of_one_gpu() -> None:
    attributes = entry(2, "uuid", text(4, "GPU-1")) + entry(2, "minor", varint(2, 0))
    attributes += entry(2, "driverVersion", text(5, "580.0.0")) + entry(
        2, "addressing", varint(3, 0)
    )
    capacity = entry(3, "memory", field(1, text(1, "80Gi")))
    device = field(6, text(1, "gpu-0") + attributes + capacity)
    pool = field(2, text(1, "n1") + varint(2, 300) + varint(3, 1))
    decoded = slicewire.decode(body(text(1, "gpu.nvidia.com") + pool + text(3, "n1") + device))
    assert decoded == {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"generateName": "n1-"},
        "spec": {
            "driver": "gpu.nvidia.com",
            "nodeName": "n1",
            "pool": {"name": "n1", "generation": 300, "resourceSliceCount": 1},
            "devices": [
                {
                    "name": "gpu-0",
                    "attributes": {
                        "uuid": {"string": "GPU-1"},
                        "minor": {"int": 0},
                        "driverVersion": {"version": "580.0.0"},
                        "addressing": {"bool": False},
                    },
                    "capacity": {"memory": {"value": "80Gi"}},
                }
            ],
        },
    }


def test_counters_and_negative_numbers() -> None:
    counters = field(8, text(1, "gpu-0") + entry(2, "memory", field(1, text(1, "1Gi"))))
    device = field(6, text(1, "d") + entry(2, "x", varint(2, -1)))
    spec = spec_of(counters + device)
    assert spec["sharedCounters"] == [{"name": "gpu-0", "counters": {"memory": {"value": "1Gi"}}}]
    assert spec["devices"][0]["attributes"]["x"] == {"int": -1}


def test_unknown_fields_are_left_out() -> None:
    assert spec_of(text(1, "d") + text(15, "new") + varint(14, 7)) == {"driver": "d"}


@pytest.mark.parametrize(
    "wrong",
    [b"{}", body(b"", kind="Pod"), body(text(1, "driver"))[:-6], slicewire.MAGIC + b"\xff"],
    ids=["json", "another kind", "cut short", "no varint"],
)
def test_what_is_no_slice_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError):
        slicewire.decode(wrong)
