"""Two device kinds side by side in the GPU driver: dispatch, exclusion, outcomes, undo, counters, pool cache."""

from __future__ import annotations

import pytest

from nvdra_core.errors import DeviceConflictError, HostError, UnknownDeviceError
from nvdra_node.gpu.driver import RESET_FAILED, GpuDriver
from nvdra_node.gpu.kinds.base import SliceSettings
from nvdra_node.gpu.registry import Registry
from nvdra_node.gpu.taints import Taint, TaintStore
from nvdra_node.kubeletplugin.driver import Health
from tests.beds.memory.gpu_node import GpuNode, a_claim
from tests.beds.memory.gpu_objects import a_gpu, a_pool, an_inventory, interval
from tests.fakes.host.commands import hang
from tests.fakes.host.smi import FakeSmi
from tests.unit.gpu.parts import Halves, MakeHalf

HALF = a_claim("half", devices=("gpu-0-half-1",))
LONG = a_claim("long", devices=("gpu-1",), configs=[interval("Long")])


class TwoKinds(GpuNode):
    """A node with full GPUs and halves; GPU 0 is in MIG mode."""

    def __init__(self) -> None:
        self.made: dict[str, str] = {}
        self.taints = TaintStore()
        self.settings = SliceSettings()
        super().__init__(gpus=2)

    def open_driver(self, shipped: Registry) -> GpuDriver:
        self.machine.gpus[0].mig_mode = 1
        self.rescan()
        known = Registry(
            kinds=(*shipped.kinds, Halves(self.made)),
            effects=(*shipped.effects, MakeHalf(self.made)),
        )
        return GpuDriver(known, self.rescanner, self.gates, self.settings, self.taints)


@pytest.fixture
def node() -> TwoKinds:
    return TwoKinds()


def test_mig_mode_withholds_whole_gpu_and_not_its_parts(node: TwoKinds) -> None:
    names = [device["name"] for device in node.driver.pool().devices]
    assert names == ["gpu-1", "gpu-0-half-0", "gpu-0-half-1"]
    with pytest.raises(HostError, match=r"gpu-0 .* MIG mode is on"):
        node.prepare(a_claim())


def test_unknown_device_error_lists_all_kinds(node: TwoKinds) -> None:
    with pytest.raises(UnknownDeviceError, match="gpu-0-half-0, gpu-0-half-1, gpu-1"):
        node.prepare(a_claim(devices=("gpu-0-half-2",)))


def test_part_gets_its_outcome_in_record_and_edits(node: TwoKinds) -> None:
    (device,) = node.prepare(HALF)
    assert device.kind == "half" and device.details == {"halfUuid": "HALF-1"}
    (edits,) = node.cdi_spec("half")["devices"]
    assert edits["containerEdits"]["env"] == ["HALF=HALF-1"]
    assert node.prepare(HALF) == (device,)


def test_parts_of_one_gpu_are_prepared_side_by_side(node: TwoKinds) -> None:
    node.prepare(HALF)
    node.prepare(a_claim("other", devices=("gpu-0-half-0",)))
    record = node.deps.records.get("half")
    assert record is not None
    assert record.holds == (f"gpu:{node.uuid(0)}", f"gpu:{node.uuid(0)}/half-1")


def test_whole_gpu_excludes_parts_of_other_kinds(node: TwoKinds) -> None:
    node.machine.gpus[0].mig_mode = 0
    node.rescan()
    node.prepare(a_claim("whole"))
    node.machine.gpus[0].mig_mode = 1
    node.rescan()
    with pytest.raises(DeviceConflictError, match="whole"):
        node.prepare(HALF)


def test_plan_restarts_if_any_kind_wants_it(node: TwoKinds) -> None:
    assert node.driver.plan(HALF, []).restart
    assert node.driver.plan(a_claim(devices=("gpu-1", "gpu-0-half-0")), []).restart
    assert not node.driver.plan(LONG, []).restart


def test_prepared_gpu_switched_to_mig_mode_is_refused(node: TwoKinds) -> None:
    node.prepare(a_claim(devices=("gpu-1",)))
    node.machine.gpus[1].mig_mode = 1
    node.rescan()
    with pytest.raises(HostError, match="cannot be used whole: its MIG mode is on"):
        node.prepare(a_claim(devices=("gpu-1",)))


def test_claim_with_two_kinds_is_prepared_and_undone(node: TwoKinds) -> None:
    claim = a_claim("both", devices=("gpu-1", "gpu-0-half-0"), configs=[interval("Long")])
    whole, half = node.prepare(claim)
    assert (whole.kind, half.kind) == ("gpu", "half")
    assert node.time_slices == {node.uuid(1): 3} and set(node.made) == {"gpu-0-half-0"}
    node.unprepare(claim)
    assert node.time_slices == {} and node.made == {}


@pytest.mark.parametrize("loss", ["remove", "unload"])
def test_undo_works_while_nvml_does_not_list_the_gpu(node: TwoKinds, loss: str) -> None:
    node.prepare(HALF)
    if loss == "remove":
        node.machine.remove(0)
    else:
        node.machine.unload_driver()
    node.restart()
    node.unprepare(HALF)
    assert node.made == {}


def test_undo_spares_what_another_made_in_its_place(node: TwoKinds) -> None:
    node.prepare(HALF)
    node.made["gpu-0-half-1"] = "HALF-foreign"
    node.unprepare(HALF)
    assert node.made == {"gpu-0-half-1": "HALF-foreign"}


def test_verify_needs_no_minor_and_detects_another_identity(node: TwoKinds) -> None:
    node.prepare(HALF)
    node.made["gpu-0-half-1"] = "HALF-9"
    record = node.deps.records.get("half")
    assert record is not None
    with pytest.raises(HostError, match="another half"):
        node.driver.verify(record, node.deadline())


def test_unknown_kind_in_record_is_refused_by_name(node: TwoKinds) -> None:
    node.prepare(HALF)
    record = node.deps.records.get("half")
    assert record is not None
    shipped = GpuDriver(node.registry, node.rescanner, node.gates, SliceSettings())
    with pytest.raises(HostError, match="device kind 'half'"):
        shipped.verify(record, node.deadline())


def test_counters_are_published_with_their_consumers(node: TwoKinds) -> None:
    gpu = a_gpu(mig_enabled=True, counters={"halves": 2})
    known = (*node.registry.kinds, Halves({}))
    pool = a_pool(an_inventory(gpu, a_gpu(1)), kinds=known)
    assert pool.shared_counters == (
        {"name": "gpu-0-counter-set", "counters": {"halves": {"value": "2"}}},
    )
    assert [device.get("consumesCounters") for device in pool.devices] == [None] + [
        [{"counterSet": "gpu-0-counter-set", "counters": {"halves": {"value": "1"}}}]
    ] * 2
    whole = a_pool(an_inventory(a_gpu(counters={"halves": 2}))).devices[0]
    assert whole["consumesCounters"][0]["counters"] == {"halves": {"value": "2"}}


def test_taint_of_part_spares_other_parts(node: TwoKinds) -> None:
    taint = Taint(key="gpu.nvidia.com/xid", message="XID 95")
    node.taints.set("xid", f"gpu:{node.uuid(0)}/half-0", [taint])
    pool = node.driver.pool()
    assert [device["name"] for device in pool.devices] == ["gpu-1", "gpu-0-half-1"]
    assert [h.device for h in pool.health if h.health is Health.UNHEALTHY] == ["gpu-0-half-0"]


def test_pool_is_built_once_per_scan_and_taint_change(node: TwoKinds) -> None:
    first = node.driver.pool()
    node.rescan()
    assert node.driver.pool() is first, "the scan found no change"
    node.taints.set("xid", f"gpu:{node.uuid(1)}", [Taint(key="gpu.nvidia.com/xid")])
    second = node.driver.pool()
    assert second is not first and node.driver.pool() is second
    node.machine.lose(1)
    node.rescan()
    assert node.driver.pool() is not second


def test_taint_change_notifies_subscribers_once(node: TwoKinds) -> None:
    calls: list[int] = []
    node.driver.subscribe(lambda: calls.append(1))
    for _ in range(2):
        node.taints.set("xid", "gpu:X", [Taint(key="k")])
    assert calls == [1]


@pytest.mark.parametrize("is_tainted", [False, True])
def test_gpu_with_failing_reset_is_withheld_or_tainted(is_tainted: bool) -> None:
    node = TwoKinds()
    node.settings = SliceSettings(taints=is_tainted)
    node.restart()
    node.prepare(LONG)
    node.commands.programs["nvidia-smi"] = hang
    node.unprepare(LONG)
    assert "gpu-1" in {device["name"] for device in node.driver.pool().devices}, "not retried yet"
    assert not node.transaction.settle(5.0)
    taints = {device["name"]: device.get("taints") for device in node.driver.pool().devices}
    blocked = [{"key": RESET_FAILED, "effect": "NoSchedule"}]
    assert taints.get("gpu-1") == (blocked if is_tainted else None)
    assert ("gpu-1" in taints) is is_tainted
    sick = [entry for entry in node.driver.pool().health if entry.health is Health.UNHEALTHY]
    assert [entry.device for entry in sick] == ["gpu-1"]
    assert "cannot be reset" in sick[0].message
    node.commands.programs["nvidia-smi"] = FakeSmi(node.machine)
    assert node.transaction.settle(5.0)
    found = {device["name"]: device.get("taints") for device in node.driver.pool().devices}
    assert found["gpu-1"] is None and node.time_slices == {}
