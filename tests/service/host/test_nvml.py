"""The same rules on the fake NVML and on the real adapter over the simulated library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nvdra_core.errors import HostError, NvmlError, NvmlSlowError
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.host import driverroot
from nvdra_node.host.nvml import ChildNvml
from nvdra_node.host.ports import Nvml
from tests.fakes.host.machine import FakeMachine, fake_gpus
from tests.fakes.host.nvml import FakeNvml
from tests.sim.api import SimRoot

CLOCK = SystemClock()
FACTS = {
    "minor",
    "uuid",
    "name",
    "pci_bus_id",
    "mig_mode",
    "memory_bytes",
    "architecture",
    "brand",
    "cuda_compute_capability",
    "addressing_mode",
    "module_id",
    "persistence",
    "compute_mode",
    "recovery_action",
    "fabric",
}


@dataclass(slots=True, kw_only=True)
class Bench:
    """NVML under test, and what can be done to its machine."""

    nvml: Nvml
    lose: Callable[[int], None]
    hang: Callable[[int], None]
    heal: Callable[[int], None]
    unload: Callable[[], None]
    load: Callable[[], None]
    xid: Callable[[int, int], None]

    def call(self, operation: str, timeout_s: float = 60.0, **arguments: Any) -> Any:
        return self.nvml.call(operation, Deadline(timeout_s, CLOCK), **arguments)


def fake_bench() -> Bench:
    machine = FakeMachine(fake_gpus(8))
    return Bench(
        nvml=FakeNvml(machine, CLOCK),
        lose=machine.lose,
        hang=machine.hang,
        heal=machine.heal,
        unload=machine.unload_driver,
        load=machine.load_driver,
        xid=lambda index, number: machine.xids.append((machine.gpus[index].uuid, number)),
    )


def sim_bench(path: Path) -> Bench:
    root = SimRoot.create(path, "h100x8")

    def hang(index: int) -> None:
        root.fault("nvmlDeviceGetMemoryInfo", gpu=index, hang=True)

    return Bench(
        nvml=ChildNvml(lambda: driverroot.library(root.path)),
        lose=root.lose,
        hang=hang,
        heal=lambda index: root.clear(),
        unload=root.unload_driver,
        load=root.load_driver,
        xid=root.xid,
    )


@pytest.fixture(params=["fake", pytest.param("sim", marks=pytest.mark.sim)])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = fake_bench() if request.param == "fake" else sim_bench(tmp_path / "host")
    yield made
    made.nvml.close()


def test_system_returns_versions_and_gpu_count(bench: Bench) -> None:
    assert bench.call("system") == {
        "driver_version": "580.65.06",
        "cuda_driver_version": 13000,
        "count": 8,
    }


def test_gpu_returns_all_facts_of_a_healthy_gpu(bench: Bench) -> None:
    answers = [bench.call("gpu", index=index) for index in range(8)]
    assert [answer["index"] for answer in answers] == list(range(8))
    assert all(set(answer["facts"]) == FACTS and not answer["errors"] for answer in answers)
    facts = answers[0]["facts"]
    assert facts["name"] == "NVIDIA H100 80GB HBM3"
    assert facts["pci_bus_id"] == "00000000:18:00.0"
    assert facts["mig_mode"] == {"current": 0, "pending": 0}
    assert facts["cuda_compute_capability"] == [9, 0]
    assert (facts["architecture"], facts["brand"]) == (9, 14)
    assert len({answer["facts"]["uuid"] for answer in answers}) == 8


def test_lost_gpu_is_an_nvml_error_and_others_answer(bench: Bench) -> None:
    bench.lose(3)
    try:
        answer = bench.call("gpu", index=3)
        codes = {error["code"] for error in answer["errors"].values()}
    except NvmlError as error:
        assert error.function.startswith("nvmlDevice")
        codes = {error.code}
    assert codes == {15}
    assert set(bench.call("gpu", index=4)["facts"]) == FACTS


def test_missing_index_is_an_nvml_error(bench: Bench) -> None:
    with pytest.raises(NvmlError) as caught:
        bench.call("gpu", index=99)
    assert caught.value.code == 2


def test_slow_gpu_is_an_error_at_deadline_and_others_answer(bench: Bench) -> None:
    bench.call("system")
    bench.hang(3)
    start_s = CLOCK.monotonic()
    with pytest.raises(NvmlSlowError) as caught:
        bench.call("gpu", 0.2, index=3)
    assert 0.2 <= caught.value.waited_s <= CLOCK.monotonic() - start_s < 60.0
    assert set(bench.call("gpu", index=4)["facts"]) == FACTS
    bench.heal(3)
    assert set(bench.call("gpu", index=3)["facts"]) == FACTS
    assert bench.nvml.stuck() == 0


def test_calls_fail_until_the_driver_is_loaded(bench: Bench) -> None:
    bench.unload()
    for _ in range(2):
        with pytest.raises(NvmlError) as caught:
            bench.call("system")
        assert caught.value.code == 9
    bench.load()
    assert bench.call("system")["count"] == 8


def test_driver_unloaded_under_a_session_is_detected(bench: Bench) -> None:
    bench.call("system")
    bench.unload()
    with pytest.raises(NvmlError) as caught:
        bench.call("system")
    assert caught.value.code == 9
    bench.load()
    assert bench.call("system")["count"] == 8


def test_an_unknown_operation_is_refused(bench: Bench) -> None:
    with pytest.raises(HostError, match="no operation"):
        bench.call("dance")


def test_closed_nvml_reopens_on_the_next_call(bench: Bench) -> None:
    bench.call("system")
    bench.nvml.close()
    bench.nvml.close()
    assert bench.call("system")["count"] == 8


def test_events_are_returned_once_with_their_gpu(bench: Bench) -> None:
    uuids = [bench.call("gpu", index=index)["facts"]["uuid"] for index in range(8)]
    with pytest.raises(HostError, match="before watch_events"):
        bench.call("wait_events", timeout_ms=0)
    assert bench.call("watch_events") == {"monitored": uuids, "unmonitored": {}}
    assert bench.call("wait_events", timeout_ms=0) == []
    bench.xid(5, 79)
    bench.xid(2, 48)
    events = bench.call("wait_events", timeout_ms=500)
    assert [(e["uuid"], e["type"], e["data"]) for e in events] == [
        (uuids[5], 8, 79),
        (uuids[2], 8, 48),
    ]
    assert {(e["gi"], e["ci"]) for e in events} == {(0xFFFFFFFF, 0xFFFFFFFF)}
    assert bench.call("wait_events", timeout_ms=0) == []


def test_compute_mode_is_set_and_read(bench: Bench) -> None:
    uuid = bench.call("gpu", index=1)["facts"]["uuid"]
    bench.call("set_compute_mode", uuid=uuid, mode=3)
    assert bench.call("compute_mode", uuid=uuid) == 3
    with pytest.raises(NvmlError) as caught:
        bench.call("compute_mode", uuid="GPU-00000000-1111-2222-3333-444444444444")
    assert caught.value.code == 6
