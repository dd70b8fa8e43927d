"""Devices dropped or refused are published once the API server accepts them; retests are rare."""

from __future__ import annotations

from typing import Any

import pytest

from nvdra_node.kubeletplugin.slices.client import parse_version
from nvdra_node.kubeletplugin.slices.schedule import AUDIT_S
from tests.beds.services.publishing import NO_SHARING, NO_TAINTS, World, a_world, device
from tests.fakes.apiserver.admission import Rule, refusing_device
from tests.fakes.apiserver.faults import Fault
from tests.fakes.clock import FakeClock

TAINT = {"key": "gpu.nvidia.com/gpu-lost", "effect": "NoSchedule"}
OLD = (NO_TAINTS, NO_SHARING)
NEW_EFFECT = refusing_device('"None"', "taints[0].effect: Unsupported value")
HOUR_S = 3600.0


def pass_time(world: World, clock: FakeClock, seconds: float) -> None:
    """Run audits at their longest interval."""
    for _ in range(round(seconds / (1.2 * AUDIT_S))):
        clock.advance(1.2 * AUDIT_S)
        world.publisher.attempt()


def writes(world: World) -> int:
    return sum(world.count(verb) for verb in ("create", "update", "delete"))


def settle(world: World) -> None:
    world.publisher.attempt()
    assert world.publisher.published().is_published


@pytest.mark.parametrize(
    ("more", "gate", "rule"),
    [
        ({"taints": [TAINT]}, "DRADeviceTaints", NO_TAINTS),
        ({"allowMultipleAllocations": True}, "DRAConsumableCapacity", NO_SHARING),
    ],
)
def test_gate_enabled_later_is_used(more: dict[str, Any], gate: str, rule: Rule) -> None:
    clock = FakeClock()
    with a_world(device(0), device(1, **more), rules=(rule,), clock=clock) as world:
        settle(world)
        assert world.publisher.published().dropped == {gate}
        world.set_rules()
        pass_time(world, clock, 0.5 * HOUR_S)
        stored = world.slices()[0]["spec"]["devices"]
        assert [d["name"] for d in stored] == ["gpu-0", "gpu-1"]
        assert all(stored[1].get(key) for key in more)
        status = world.publisher.published()
        assert (status.dropped, status.left_out) == (frozenset(), {})


def test_retests_take_at_most_one_request_in_10_min() -> None:
    clock = FakeClock()
    devices = [device(n, taints=[TAINT], allowMultipleAllocations=True) for n in range(200)]
    healthy = device(999, allowMultipleAllocations=True)
    with a_world(healthy, *devices, rules=OLD, clock=clock) as world:
        settle(world)
        assert len(world.publisher.published().dropped) == 2
        before = writes(world)
        pass_time(world, clock, 12 * HOUR_S)
        assert 0 < writes(world) - before <= 12 * 6
        assert world.devices() == ["gpu-999"]


def test_gates_enabled_one_by_one_are_both_used() -> None:
    clock = FakeClock()
    both = device(1, taints=[TAINT], allowMultipleAllocations=True)
    with a_world(device(0), both, rules=OLD, clock=clock) as world:
        settle(world)
        for rules in ((NO_SHARING,), ()):
            world.set_rules(*rules)
            pass_time(world, clock, 0.5 * HOUR_S)
        assert world.publisher.published().dropped == frozenset()
        stored = world.slices()[0]["spec"]["devices"][1]
        assert stored["taints"] and stored["allowMultipleAllocations"]


def test_device_accepted_later_is_published() -> None:
    """The effect None of a taint is invalid before Kubernetes 1.35."""
    clock = FakeClock()
    odd = device(1, taints=[{**TAINT, "effect": "None"}])
    with a_world(device(0), odd, rules=(NEW_EFFECT,), clock=clock) as world:
        settle(world)
        assert world.devices() == ["gpu-0"]
        pass_time(world, clock, HOUR_S)
        assert list(world.publisher.published().left_out) == ["gpu-1"]
        world.set_rules()
        pass_time(world, clock, 0.5 * HOUR_S)
        assert world.devices() == ["gpu-0", "gpu-1"]
        assert world.publisher.published().left_out == {}


def test_refused_device_does_not_block_gate_retest() -> None:
    clock = FakeClock()
    bad = device(1, attributes={"driverVersion": {"version": "580.65.06"}})
    refusal = refusing_device("580.65.06", "not a semantic version")
    sick = device(2, taints=[TAINT])
    with a_world(device(0), bad, sick, rules=(NO_TAINTS, refusal), clock=clock) as world:
        settle(world)
        assert world.devices() == ["gpu-0"]
        world.set_rules(refusal)
        pass_time(world, clock, HOUR_S)
        assert world.devices() == ["gpu-0", "gpu-2"]
        assert list(world.publisher.published().left_out) == ["gpu-1"]


def test_failed_retest_changes_nothing() -> None:
    clock = FakeClock()
    with a_world(device(0), device(1, taints=[TAINT]), rules=OLD, clock=clock) as world:
        settle(world)
        world.server.api.faults.add(
            Fault(verb="create", resource="resourceslices", code=500, count=0)
        )
        pass_time(world, clock, HOUR_S)
        assert world.publisher.published().is_published
        assert world.devices() == ["gpu-0"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v1.35.0", (1, 35)),
        ("v1.35.0-eks-3025e55", (1, 35)),
        ("v1.35.0-gke.1234001", (1, 35)),
        ("v1.35.0-aliyun.1", (1, 35)),
        ("v1.35.0-vmware.2-fips", (1, 35)),
        ("v1.35.0-rcvendor.1", (1, 35)),
        ("v1.35.0+rke2r1", (1, 35)),
        ("v1.35.0+k3s1", (1, 35)),
        ("v1.35.0-alpha.1", (1, 34)),
        ("v1.35.0-beta.0+1a2b", (1, 34)),
        ("v1.35.0-rc.1", (1, 34)),
        ("v1.35.0-rc1", (1, 34)),
        ("v1.35.1-rc.0", (1, 35)),
    ],
)
def test_vendor_version_suffix_is_no_prerelease(text: str, expected: tuple[int, int]) -> None:
    assert parse_version({"gitVersion": text}) == expected
