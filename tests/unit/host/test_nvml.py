"""The parent side of NVML children: hanging, dying and unkillable children."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nvdra_core.errors import DeadlineError, HostError, NvmlError, NvmlHungError, NvmlSlowError
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.host.child import Child, ChildEndedError
from nvdra_node.host.nvml import ChildNvml, ChildSettings
from nvdra_node.host.nvml_child import IDLE_STATUS
from tests.fakes.clock import FakeClock

CLOCK = SystemClock()


class ScriptedChild:
    """Answers each request by the next line of its script: a reply, ``hang``, or an exit status."""

    def __init__(self, pid: int, script: list[Any], *, killable: bool = True) -> None:
        self.pid = pid
        self.script = script
        self.wait: Callable[[float], object] = lambda timeout_s: None
        self.killable = killable
        self.killed = False
        self.given_up = threading.Event()
        self._requests: list[dict[str, Any]] = []

    def send(self, line: bytes) -> None:
        self._requests.append(json.loads(line))

    def receive(self, deadline: Deadline) -> bytes | None:
        action = self.script.pop(0)
        if action in ("hang", "slow"):
            if action == "hang":
                self.script.insert(0, action)
            self.wait(deadline.remaining_s())
            return None
        if isinstance(action, int):
            raise ChildEndedError(f"process {self.pid} ended", status=action)
        return json.dumps({"id": self._requests[-1]["id"], **action}).encode()

    def give_up(self) -> None:
        self.given_up.set()

    def kill(self, wait_s: float) -> bool:
        self.killed = True
        return self.killable

    def reap(self) -> bool:
        return self.killable

    def has_exited(self, status: int) -> bool:
        return False


class Nursery:
    """Spawns scripted children, one after the other."""

    def __init__(self, *scripts: list[Any], killable: bool = True) -> None:
        self._scripts = list(scripts)
        self._killable = killable
        self.children: list[ScriptedChild] = []
        self.clock = FakeClock()
        self.nvml = ChildNvml(
            lambda: Path("/lib/libnvidia-ml.so.1"),
            ChildSettings(max_abandoned=2),
            self.spawn,
            self.clock,
        )

    def spawn(self, argv: Sequence[str]) -> ScriptedChild:
        child = ScriptedChild(len(self.children), self._scripts.pop(0), killable=self._killable)
        child.wait = self.clock.advance
        self.children.append(child)
        return child

    def call(self, operation: str = "system", timeout_s: float = 60.0, **arguments: Any) -> Any:
        return self.nvml.call(operation, Deadline(timeout_s, self.clock), **arguments)


OK = {"ok": "fine"}
OTHER = {"ok": "other"}
BAD = {"error": {"kind": "nvml", "function": "nvmlInit", "code": 999, "message": "Unknown Error"}}
STALE = {"error": {"kind": "nvml", "function": "nvmlX", "code": 18, "message": "Mismatch"}}


def test_one_child_serves_calls_and_survives_nvml_errors() -> None:
    nursery = Nursery([OK, BAD, OK])
    assert nursery.call() == "fine"
    with pytest.raises(NvmlError) as caught:
        nursery.call()
    assert (caught.value.function, caught.value.code) == ("nvmlInit", 999)
    assert nursery.call() == "fine" and len(nursery.children) == 1


def test_hanging_child_is_killed_and_replaced() -> None:
    nursery = Nursery(["hang"], [OK])
    with pytest.raises(NvmlHungError):
        nursery.call()
    assert nursery.children[0].killed
    assert nursery.call() == "fine" and nursery.nvml.stuck() == 0


def test_slow_call_continues_and_its_repetition_gets_the_answer() -> None:
    nursery = Nursery(["slow", "slow", OK], [OTHER])
    with pytest.raises(NvmlSlowError) as caught:
        nursery.call("gpu", 2.0, index=0)
    assert caught.value.waited_s == 2.0
    assert nursery.call("gpu", 2.0, index=1) == "other"
    assert nursery.call("gpu", 2.0, index=0) == "fine"
    assert [child.killed for child in nursery.children] == [
        False,
        False,
    ] and nursery.nvml.hangs == 0


def test_slow_call_becomes_hung_however_often_it_is_repeated() -> None:
    nursery = Nursery(["hang"], [OK])
    for _ in range(4):
        with pytest.raises(NvmlSlowError):
            nursery.call("gpu", 10.0, index=0)
    with pytest.raises(NvmlHungError):
        nursery.call("gpu", 10.0, index=0)
    assert nursery.children[0].killed and nursery.nvml.hangs == 1
    assert nursery.call("gpu", index=0) == "fine"


def test_abandoned_hung_call_is_ended_by_later_calls() -> None:
    nursery = Nursery(["hang"], [OK, OK])
    with pytest.raises(NvmlSlowError):
        nursery.call("gpu", 2.0, index=0)
    nursery.clock.advance(60)
    assert nursery.call() == "fine" and nursery.children[0].killed
    with pytest.raises(NvmlHungError):
        nursery.call("gpu", 2.0, index=0)


def test_changing_call_is_ended_at_its_deadline() -> None:
    nursery = Nursery(["hang"], [OK])
    with pytest.raises(NvmlHungError):
        nursery.call("set_compute_mode", 2.0, uuid="GPU-1", mode=3)
    assert nursery.children[0].killed


def test_calls_in_progress_are_bounded_and_others_wait() -> None:
    nursery = Nursery(["slow", "slow", "slow", "slow", OK, OK], ["hang"], ["hang"])
    for index in range(3):
        with pytest.raises(NvmlSlowError):
            nursery.call("gpu", 1.0, index=index)
    with pytest.raises(DeadlineError, match="other calls"):
        nursery.call("gpu", 0.0, index=3)
    assert len(nursery.children) == 3
    assert (
        nursery.call("gpu", 1.0, index=3) == "fine"
    )  # by the child of index 0, which has answered


def test_child_death_in_a_call_is_an_error_without_retry() -> None:
    nursery = Nursery([-11], [OK])
    with pytest.raises(NvmlError, match="ended") as caught:
        nursery.call()
    assert not isinstance(caught.value, NvmlHungError)
    assert nursery.call() == "fine"


def test_idle_exit_is_replaced_transparently() -> None:
    nursery = Nursery([OK, IDLE_STATUS], [OK])
    assert [nursery.call(), nursery.call()] == ["fine", "fine"]
    assert len(nursery.children) == 2


def test_session_of_a_replaced_driver_is_not_reused() -> None:
    nursery = Nursery([STALE], [OK])
    with pytest.raises(NvmlError):
        nursery.call()
    assert nursery.call() == "fine" and nursery.children[0].killed


def test_unkillable_children_are_limited_and_reaped_later() -> None:
    nursery = Nursery(["hang"], ["hang"], [OK], killable=False)
    for _ in range(2):
        with pytest.raises(NvmlHungError):
            nursery.call()
    assert nursery.nvml.stuck() == 2
    with pytest.raises(NvmlHungError, match="cannot be killed"):
        nursery.call()
    assert len(nursery.children) == 2
    nursery.children[0].killable = True
    assert nursery.call() == "fine" and nursery.nvml.stuck() == 1


def test_call_that_waits_too_long_is_not_started() -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Slow(ScriptedChild):
        def receive(self, deadline: Deadline) -> bytes | None:
            inside.set()
            go_on.wait(60)
            return super().receive(deadline)

    settings = ChildSettings(max_children=1)
    nvml = ChildNvml(lambda: Path("/x"), settings, spawn=lambda argv: Slow(1, [OK, OK]))
    first = threading.Thread(target=lambda: nvml.call("gpu", Deadline(60, CLOCK), index=0))
    first.start()
    assert inside.wait(60)
    with pytest.raises(DeadlineError):
        nvml.call("system", Deadline(0.05, CLOCK))
    go_on.set()
    first.join()


def test_hanging_call_does_not_delay_close() -> None:
    inside = threading.Event()

    class Hanging(ScriptedChild):
        def receive(self, deadline: Deadline) -> bytes | None:
            inside.set()
            assert self.given_up.wait(60)
            return super().receive(deadline)

    child = Hanging(1, ["hang"])
    nvml = ChildNvml(lambda: Path("/x"), spawn=lambda argv: child)
    failures: list[str] = []

    def ask() -> None:
        try:
            nvml.call("system", Deadline(60, CLOCK))
        except NvmlHungError as error:
            failures.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    assert inside.wait(60)
    nvml.close()
    asking.join()
    assert child.killed and failures


def test_missing_library_starts_no_child() -> None:
    def missing() -> Path:
        raise HostError("no library")

    nvml = ChildNvml(missing, spawn=Nursery().spawn)
    with pytest.raises(HostError, match="no library"):
        nvml.call("system", Deadline(60, CLOCK))
    assert nvml.pid is None


def test_waiter_on_a_real_child_is_woken_by_give_up() -> None:
    child = Child.start(["sleep", "60"])
    answers: list[bytes | None] = []
    waiting = threading.Thread(target=lambda: answers.append(child.receive(Deadline(60, CLOCK))))
    waiting.start()
    child.give_up()
    waiting.join(30)
    assert answers == [None] and child.kill(30)


def test_repeated_child_failures_are_reported_alike() -> None:
    said = []
    for _ in range(2):
        child = Child.start(["sh", "-c", "echo no library >&2; exit 3"])
        with pytest.raises(ChildEndedError) as gone:
            child.receive(Deadline(30, CLOCK))
        child.kill(30)
        said.append(str(gone.value))
    assert said == ["its process ended (exit status 3): no library"] * 2
